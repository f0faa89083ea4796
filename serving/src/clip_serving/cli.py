"""`clip-serve`: the embedded tritonserver from a terminal."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import get_args

from clip_preprocess.settings import Quality
from clip_serving import defaults
from clip_serving.errors import ClipServingError, ServerError
from clip_serving.repository.stage import InstanceLayout, available_cores
from clip_serving.server.embedded import ServerOptions, TritonServer

_DESCRIPTION = """\
Serves a clip-triton model repository with a real tritonserver, on this machine's CPU and on
loopback only. For a GPU, or for other machines to reach it, use docker-compose.yml.

The repository itself is not touched: instance counts are fitted to this machine in a private copy.
The server is called ready once it has embedded the model's reference picture rightly. When one of
its Python processes dies, the server is restarted; clients that retry notice only the wait.
"""

_EPILOG = """\
examples:
  clip-serve --repository model_repository
  clip-serve --repository model_repository --preprocess-instances 4 --encoder-instances 1 --encoder-threads 4
  clip-serve --repository model_repository --encoder-precision int8

exit status: 0 after Ctrl-C or SIGTERM, 2 when the server could not start, or ended under --no-supervise.
"""


_POLL_S = 0.5


def main(argv: list[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="clip-serve: %(message)s")
    stop = threading.Event()

    def end(signum: int, frame: FrameType | None) -> None:
        del signum, frame
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        if not started.is_set():
            raise KeyboardInterrupt

    started = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    try:
        wanted = _server_options(options)
        if wanted.layout is not None:
            on_cpu = options.model_config_name == "cpu"
            for text in wanted.layout.past(available_cores(), encoder_on_cpu=on_cpu):
                _say(f"warning: {text}")
        with TritonServer(options.repository, wanted) as server:
            started.set()
            _announce(server, as_json=options.json)
            _wait(stop, server, supervised=wanted.supervise)
            _say("stopping: requests in flight are finished first")
    except KeyboardInterrupt:
        _say("stopped")
    except ClipServingError as error:
        _say(f"error: {error}")
        return 2
    return 0


def _wait(stop: threading.Event, server: TritonServer, *, supervised: bool) -> None:
    """Until `stop`; raises ServerError where the server ends and nobody will start it again."""
    if supervised:
        stop.wait()
    while not stop.wait(_POLL_S):
        if reason := server.explain_death():
            raise ServerError(f"{reason}, and --no-supervise was given")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
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
            type=int,
            default=port,
            metavar="PORT",
            help="default: %(default)s; 0 takes a free one",
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
    add(
        "--quality",
        choices=get_args(Quality),
        help="of the pixels, in place of the repository's: exact is open_clip's bit for bit, the others cost "
        "a third of its CPU",
    )
    add(
        "--encoder-precision",
        choices=get_args(defaults.EncoderPrecision),
        help="of a CPU encoder, in place of the repository's: auto is bf16 where the CPU has it and it "
        "proves right, else fp32; int8 is fastest and further off",
    )
    add(
        "--model-config-name",
        default="cpu",
        metavar="NAME",
        help="which configs/NAME.pbtxt of the models to serve (default: %(default)s)",
    )
    add(
        "--ready-timeout",
        type=float,
        default=defaults.READY_TIMEOUT_S,
        metavar="SECONDS",
        help="default: %(default).0f",
    )
    add(
        "--log",
        type=Path,
        metavar="FILE",
        help="add tritonserver's log to this file (default: one in a temporary folder, gone at the end)",
    )
    add("--no-supervise", action="store_true", help="do not restart a server that has died")
    add("--json", action="store_true", help="print the addresses as one line of JSON when ready")
    return parser


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


def _announce(server: TritonServer, *, as_json: bool) -> None:
    if as_json:
        addresses = {
            "grpc_url": server.grpc_url,
            "http_url": server.http_url,
            "metrics_url": server.metrics_url,
            "pid": server.pid,
            "encoder": server.encoder,
            "checked": server.checked,
            "log": str(server.log_path.resolve()),
            **dataclasses.asdict(server.layout),
        }
        print(json.dumps(addresses), flush=True)
        return
    layout = server.layout
    right = "the reference picture was embedded and matches open_clip's embedding"
    print(
        f"""
ready: {right if server.checked else "but not checked, as it refuses load already"}
  gRPC     {server.grpc_url}
  HTTP     {server.http_url}
  metrics  {server.metrics_url}
  layout   preprocess {layout.preprocess_instances} x {layout.preprocess_threads} threads, \
encoder {layout.encoder_instances} x {layout.encoder_threads} threads
  encoder  {server.encoder or "as the model's config says"}
  log      {server.log_path.resolve()}

try it:
  curl -s {server.http_url}/v2/models/{defaults.ENSEMBLE}/config
  clip-embed gs://bucket/prefix --out embeddings.parquet --url {server.grpc_url}
  python -c "from clip_client import ClipClient; print(ClipClient('{server.grpc_url}').embed(['photo.jpg']))"

Ctrl-C stops it.""",
        flush=True,
    )


def _say(text: str) -> None:
    print(f"{_clear()}clip-serve: {text}", file=sys.stderr, flush=True)


def _clear() -> str:
    return "\r\033[K" if sys.stderr.isatty() else ""


if __name__ == "__main__":
    sys.exit(main())
