"""`clip-serve`: the embedded tritonserver from a terminal."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import math
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from types import FrameType
from typing import get_args

from clip_serving import defaults
from clip_serving.errors import ClipServingError, ServerError
from clip_serving.repository.deployment import DEPLOYMENT_FILE, Deployment
from clip_serving.repository.families.image import IMAGE
from clip_serving.repository.flags import add_flags
from clip_serving.repository.render import outdated_configs
from clip_serving.repository.spec import SPEC_FILE, ModelSpec
from clip_serving.repository.stage import InstanceLayout, available_cores
from clip_serving.repository.versions import served_version
from clip_serving.terminal import Formatter, Parser, printable

try:
    from clip_serving.server.embedded import ServerOptions, TritonServer
except ModuleNotFoundError as missing:
    sys.exit(
        f"clip-serve: error: the package {missing.name} is not installed. "
        "Install what clip-serve needs with: pip install 'clip-triton-serving[local]'"
    )

_DESCRIPTION = """\
Serves a clip-triton model repository with a real tritonserver, on this machine's CPU and on
loopback only. For a GPU, or for other machines to reach it, use docker-compose.yml.

The server runs on a private copy of the repository, whose instance counts fit this machine. It is ready
once its embedding of the model's reference picture matches open_clip's. If one of its Python processes
dies, the server is restarted; clients that retry notice only the wait.
"""

_EPILOG = """\
examples:
  clip-serve --repository model_repository
  clip-serve --repository model_repository --preprocess-instances 4 --encoder-instances 1 --encoder-threads 4
  clip-serve --repository model_repository --encoder-precision int8
  clip-serve --repository model_repository --tier decode --grpc-port 8101 --http-port 0 --metrics-port 0

exit status: 0 after Ctrl-C or SIGTERM, 2 if the server did not start, or ended under --no-supervise.
"""


_POLL_S = 0.5
RIGHT = "the embedding of the reference picture matches open_clip's"


def main(argv: list[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    handler = logging.StreamHandler()
    handler.setFormatter(Formatter("clip-serve: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    # Not an Event: its set() waits forever for its own lock if the signal comes at the beginning of wait().
    stop: SimpleQueue[int] = SimpleQueue()
    received: list[int] = []
    is_started = False

    def end(signum: int, frame: FrameType | None) -> None:
        del frame
        received.append(signum)
        if len(received) > 1 or not is_started:
            raise KeyboardInterrupt
        stop.put(signum)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    try:
        wanted = _server_options(options)
        for text in _warnings(options.repository, wanted):
            _say(f"warning: {text}")
        with TritonServer(options.repository, wanted) as server:
            is_started = True
            announce(server, options.repository, as_json=options.json)
            _wait(stop, server, supervised=wanted.supervise)
            _say("stopping: requests in flight are finished first")
    except KeyboardInterrupt:
        _say("stopped")
    except ClipServingError as error:
        _say(f"error: {error}")
        return 2
    return 0


def _warnings(repository: Path, wanted: ServerOptions) -> Iterator[str]:
    if wanted.layout is not None:
        on_cpu = wanted.model_config_name == "cpu"
        yield from wanted.layout.past(available_cores(), encoder_on_cpu=on_cpu)
    if outdated := outdated_configs(repository):
        yield (
            f"{', '.join(outdated)} in {repository}: edited by hand, or rendered by another version. "
            f"clip-serve serves what {DEPLOYMENT_FILE} says. Move your edits there, then run: "
            f"clip-render --repository {repository}"
        )


def _wait(stop: SimpleQueue[int], server: TritonServer, *, supervised: bool) -> None:
    """Returns after a signal; raises ServerError if the server ends and is not restarted."""
    while True:
        with suppress(Empty):
            # With a timeout also if there is nothing to watch: a signal just before a wait does not end it.
            stop.get(timeout=_POLL_S)
            return
        if not supervised and (reason := server.explain_death()):
            raise ServerError(f"{reason}, and --no-supervise was given")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        "clip-serve",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--repository",
        type=Path,
        default=Path("model_repository"),
        metavar="DIR",
        help="the model repository that clip-export filled (default: %(default)s)",
    )
    for name, port in (
        ("grpc", defaults.GRPC_PORT),
        ("http", defaults.HTTP_PORT),
        ("metrics", defaults.METRICS_PORT),
    ):
        add(
            f"--{name}-port",
            type=_port,
            default=port,
            metavar="PORT",
            help="default: %(default)s; 0 picks a free one",
        )
    add(
        "--tier",
        choices=get_args(defaults.Tier),
        help="serve only one part: decode is the model that decodes photos, encode the encoders. Clients of "
        "the encode tier decode photos themselves, or use a decode tier (clip-embed --decode). Default: all",
    )
    chosen = InstanceLayout.for_cores(available_cores())
    for field in dataclasses.fields(InstanceLayout):
        add(
            f"--{field.name.replace('_', '-')}",
            type=int,
            metavar="N",
            default=getattr(chosen, field.name),
            help="default: %(default)s, from this machine's cores",
        )
    add_flags(
        parser.add_argument_group("settings", "for this run; the default is the repository's value"),
        IMAGE,
        only=("quality", "encoder_precision"),
    )
    add(
        "--model-config-name",
        default="cpu",
        metavar="NAME",
        help="serve configs/NAME.pbtxt of each model that has one (default: %(default)s)",
    )
    add(
        "--ready-timeout",
        type=_seconds,
        default=defaults.READY_TIMEOUT_S,
        metavar="SECONDS",
        help="time limit for the server to become ready (default: %(default).0f)",
    )
    add(
        "--log",
        type=Path,
        metavar="FILE",
        help="append tritonserver's log to this file (default: a temporary file, deleted at the end)",
    )
    add("--no-supervise", action="store_true", help="do not restart a server that has died")
    add("--json", action="store_true", help="print the addresses as one line of JSON when ready")
    return parser


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"{text} must be from 0 to 65535")
    return port


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} must be a positive number of seconds")
    return value


def _server_options(options: argparse.Namespace) -> ServerOptions:
    return ServerOptions(
        grpc_port=options.grpc_port,
        http_port=options.http_port,
        metrics_port=options.metrics_port,
        model_config_name=options.model_config_name,
        layout=InstanceLayout(
            **{f.name: getattr(options, f.name) for f in dataclasses.fields(InstanceLayout)}
        ),
        quality=options.quality,
        encoder_precision=options.encoder_precision,
        tier=options.tier,
        supervise=not options.no_supervise,
        ready_timeout_s=options.ready_timeout,
        log=options.log,
        on_progress=_progress() if sys.stderr.isatty() else None,
    )


def _progress() -> Callable[[float], None]:
    def show(elapsed: float) -> None:
        sys.stderr.write(f"\rclip-serve: loading the models ... {elapsed:5.1f} s")
        sys.stderr.flush()

    return show


def announce(server: TritonServer, repository: Path, *, as_json: bool) -> None:
    """Prints where the server is, and commands that use it."""
    if as_json:
        addresses = {
            "grpc_url": server.grpc_url,
            "http_url": server.http_url,
            "metrics_url": server.metrics_url,
            "pid": server.pid,
            "encoder": server.encoder,
            "checked": server.checked,
            "tier": server.tier,
            "log": str(server.log_path.resolve()),
            **dataclasses.asdict(server.layout),
        }
        print(json.dumps(addresses), flush=True)
        return
    right = "decodes the reference picture" if server.tier == "decode" else RIGHT
    print(
        f"""
ready: {right if server.checked else "not checked, because the server is already rejecting load"}
  gRPC     {server.grpc_url}
  HTTP     {server.http_url}
  metrics  {server.metrics_url}
  layout   {_layout(server)}
  encoder  {_encoder(server)}
  log      {printable(str(server.log_path.resolve()))}

try it:
{_examples(server, repository)}

Ctrl-C stops it.""",
        flush=True,
    )


def _layout(server: TritonServer) -> str:
    layout = server.layout
    stages = {
        "decode": f"preprocess {layout.preprocess_instances} x {layout.preprocess_threads} threads",
        "encode": f"encoder {layout.encoder_instances} x {layout.encoder_threads} threads",
    }
    return ", ".join(text for tier, text in stages.items() if server.tier in (None, tier))


def _encoder(server: TritonServer) -> str:
    return "none" if server.tier == "decode" else server.encoder or "see the model's config"


def _examples(server: TritonServer, repository: Path) -> str:
    image, *others = Deployment.load(repository).image_families
    named = f" --model {image.ensemble}" if image.set_name else ""
    embed = f"  clip-embed gs://bucket/prefix --out embeddings.parquet{named}"
    if server.tier == "decode":
        return f"{embed} --url ENCODER:8001 --decode {server.grpc_url}"
    if server.tier == "encode":
        return f"{embed} --url {server.grpc_url} --decode client"
    size = 4 * ModelSpec.load(served_version(repository, image) / SPEC_FILE).embedding_dim
    also = f"\nalso served (--model NAME): {', '.join(each.ensemble for each in others)}" if others else ""
    model = f", model='{image.ensemble}'" if named else ""
    return (
        f"  curl -s {server.http_url}/v2/models/{image.ensemble}/infer "
        "-H 'Inference-Header-Content-Length: 0' --data-binary @photo.jpg | "
        f"tail -c {size} | od -An -v -tf4\n"
        f"{embed} --url {server.grpc_url}\n"
        f'  python -c "from clip_client import ClipClient; '
        f"print(ClipClient('{server.grpc_url}'{model}).embed(['photo.jpg']))\"{also}"
    )


def _say(text: str) -> None:
    print(f"{_clear()}clip-serve: {printable(text)}", file=sys.stderr, flush=True)


def _clear() -> str:
    return "\r\033[K" if sys.stderr.isatty() else ""


if __name__ == "__main__":
    sys.exit(main())
