"""`clip-profile stages`: from its arguments to the table."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from itertools import islice
from pathlib import Path

from clip_client import ObjectInfo, Source, SourceOptions, open_source
from clip_client import defaults as client_defaults
from clip_client.arguments import (
    add_connection_options,
    add_decode_option,
    count,
    decode,
    positive,
)
from clip_client.terminal import printable
from clip_profile import defaults
from clip_profile.console import Console
from clip_profile.errors import NoPhotoLeft, ProfileError
from clip_profile.load.connection import connection_for, redacted
from clip_profile.load.server import Server, embedded, running
from clip_profile.observe.server_stats import read_version
from clip_profile.records.machine import Machine, versions
from clip_profile.stages.breakdown import make_report
from clip_profile.stages.measure import INTERRUPTED, Measured, Measuring, Plan
from clip_profile.stages.result import Report
from clip_profile.stages.table import table
from clip_serving.repository.stage import InstanceLayout, available_cores
from clip_serving.server.embedded import ServerOptions

_MOST_OBJECTS = 10_000
"""Listed of a larger bucket: more than a measurement needs."""
_EXAMPLES = 3

_DESCRIPTION = """\
Measures load, transport, queue, decode, preprocess and embed in a closed loop, with a
fixed number of requests in flight: min, mean, p50, p95, p99 and max per photo and per request, and the CPU,
memory and GPU use of server and client. Photos that fail are counted once, by error code, and left out.
"""
_EPILOG = """\
exit status:
  0    measured
  1    the server died, or no photo was left, before the end; what was measured is shown and kept
  2    nothing was measured: no photos, none that can be decoded, no server, or another kind of server
  130  stopped by Ctrl-C; what was measured is shown and kept
"""


def add_stages(parser: argparse.ArgumentParser) -> None:
    parser.description, parser.epilog = _DESCRIPTION, _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.set_defaults(command=_stages)
    add = parser.add_argument
    add("--photos", required=True, metavar="DIR|gs://...", help="a folder, or gs://bucket/prefix")
    add("--repository", type=Path, default=Path("model_repository"), metavar="DIR",
        help="of the embedded server (default: %(default)s)")  # fmt: skip
    add("--url", help="gRPC address of a running server, instead of the embedded one")
    add_connection_options(parser, "TLS and headers, for --url")
    add("--metrics-url", help="its metrics, such as http://host:8002/metrics: CPU, memory, GPU")
    add_decode_option(parser)
    add("--concurrency", type=count, default=client_defaults.CONCURRENCY, metavar="N",
        help="requests in flight (default: %(default)s)")  # fmt: skip
    add("--images-per-request", type=count, default=defaults.STAGES_IMAGES_PER_REQUEST, metavar="N",
        help="photos per request (default: %(default)s)")  # fmt: skip
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--seconds", type=positive, default=defaults.STAGES_SECONDS, metavar="S",
                        help="measure for this long (default: %(default)g)")  # fmt: skip
    length.add_argument("--count", type=count, metavar="N", help="measure this many photos instead")
    add("--warm-up", type=float, default=defaults.STAGES_WARM_UP_S, metavar="S",
        help="at least this long, and until every request in flight was answered once "
        "(default: %(default)g)")  # fmt: skip
    add("--out", type=Path, metavar="FILE", help="also write JSON, for clip-profile compare")
    add("--json", action="store_true", help="print JSON")
    layout = parser.add_argument_group("processes of the embedded server (default: from the cores)")
    for field in dataclasses.fields(InstanceLayout):
        layout.add_argument(f"--{field.name.replace('_', '-')}", type=count, metavar="N")


def _stages(options: argparse.Namespace) -> int:
    console = Console()
    _can_write(options.out)
    source = open_source(options.photos, SourceOptions(connections=options.concurrency))
    items = _listed(source, options.photos)
    plan = Plan(
        concurrency=options.concurrency,
        images_per_request=options.images_per_request,
        seconds=options.seconds,
        count=options.count,
        warm_up_s=options.warm_up,
        decode=decode(options),
    )
    with _server(options, console) as server:
        measuring = Measuring(server, source, items, plan, console)
        about = _about(options, server, measuring.info.parameters, len(items))
        measured = measuring.run()
        console.clear()
        report = make_report(measured, plan, about)
        _show(report, options)  # before the server needs time to stop
    return _status(measured, report, options.photos, console)


def _can_write(out: Path | None) -> None:
    """Raises ProfileError for an `out` that cannot be written, before anything is measured."""
    if out is None:
        return
    if out.exists():
        raise ProfileError(f"{out} exists already. Choose another --out, or remove it")
    if not out.resolve().parent.is_dir():
        raise ProfileError(f"{out}: the folder {out.parent} does not exist. Create it first")


def _listed(source: Source, uri: str) -> list[ObjectInfo]:
    items = list(islice(source.list(), _MOST_OBJECTS))
    if not items:
        raise ProfileError(f"{uri} holds no photos")
    return items


@contextmanager
def _server(options: argparse.Namespace, console: Console) -> Iterator[Server]:
    chosen = {field.name: getattr(options, field.name) for field in dataclasses.fields(InstanceLayout)}
    given = {name: value for name, value in chosen.items() if value is not None}
    connection = connection_for(options)
    if options.url:
        if given:
            raise ProfileError(f"{', '.join(given)} cannot be changed on a running server")
        with running(options.url, options.metrics_url, connection) as server:
            yield server
        return
    console.doing("starting the server")
    layout = dataclasses.replace(InstanceLayout.for_cores(available_cores()), **given)
    with embedded(options.repository, ServerOptions(layout=layout, supervise=False)) as server:
        yield server


def _about(
    options: argparse.Namespace, server: Server, parameters: dict[str, str], photos: int
) -> dict[str, object]:
    return {
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": ["clip-profile", *redacted(sys.argv[1:], options.header)],
        "photos": printable(options.photos),
        "listed": photos,
        "server": server.name,
        "model": f"{parameters.get('model', '?')} ({parameters.get('pretrained', '?')})",
        "layout": dataclasses.asdict(server.layout) if server.layout else None,
        "machine": dataclasses.asdict(Machine.here()),
        "versions": versions(tritonserver=read_version(server.triton)),
    }


def _show(report: Report, options: argparse.Namespace) -> None:
    text = report.to_json()
    if options.json:
        print(text)
    elif report.photos:
        print(table(report))
    if options.out is not None:  # last, so that a full disk does not keep the table from the screen
        options.out.write_text(text + "\n", encoding="utf-8")


def _status(measured: Measured, report: Report, photos: str, console: Console) -> int:
    if measured.ended == INTERRUPTED:
        raise KeyboardInterrupt  # main says that it was stopped
    if not report.photos:
        raise ProfileError(f"nothing was measured: {_cause(measured, report, photos)}")
    if measured.ended:
        console.line(f"clip-profile: error: {measured.ended}. What was measured until then is kept")
        return 1
    return 0


def _cause(measured: Measured, report: Report, photos: str) -> str:
    if measured.ended != str(NoPhotoLeft()):
        return measured.ended or "no request was answered in time. Measure longer with --seconds"
    failed = measured.failed.failed
    codes = ", ".join(f"{n} {code}" for code, n in report.failed.items())
    examples = "".join(f"\n  {name}: {error}" for name, error in islice(sorted(failed.items()), _EXAMPLES))
    return f"none of the {len(failed)} photos in {photos} was embedded ({codes}){examples}"
