"""`clip-embed`: a bucket or a folder of photos to a Parquet file of CLIP embeddings."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import signal
import sys
import traceback
from contextlib import nullcontext
from pathlib import Path
from types import FrameType

from tqdm import tqdm

from clip_client import defaults
from clip_client.arguments import add_connection_options, connection_of
from clip_client.check import check
from clip_client.client import ClipClient
from clip_client.errors import ClipClientError, ServerBusy, SinkError
from clip_client.memory import keep_freed_memory
from clip_client.pipeline import Summary, embed_to_parquet, is_failed
from clip_client.sinks.parquet import has_shards, parts_of, way_on
from clip_client.sources.gcs import open_source
from clip_client.stream import EmbeddedObject
from clip_client.timings import Stage, table

_DESCRIPTION = """\
Embeds every photo under gs://bucket/prefix, or in a folder, through a clip-triton server, and writes
one row an object to a Parquet file: name, generation, size, crc32c, embedding (NaN where it failed),
error_code, error_text. The model and its weights' hash are in the file's metadata (clip_triton).

OUT is written when all is done. A run that is cut off, by whatever, keeps what it finished in OUT.parts/
and leaves OUT as it was; the same command goes on from there (after --overwrite: with --resume).
"""
_EPILOG = """\
examples:
  clip-embed gs://albums/2024/ --out embeddings.parquet --url 127.0.0.1:8001
  clip-embed ./photos --out embeddings.parquet --resume
  clip-embed --check 127.0.0.1:8001

exit status:
  0    every object is embedded; with --check: the server embeds rightly
  1    some objects failed, and are in the file with their error; --check: it embeds wrongly
  2    nothing could be done, or not go on: no server, no bucket, no room on the disk, a fault of ours
  3    with --check: the server is alive, and too busy to tell
  130  stopped by Ctrl-C or SIGTERM; what was finished is in OUT.parts/
"""

BUSY = 3
"""The exit status of --check for a server that sheds load."""


def main(argv: list[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(argv)
    # Python leaves Ctrl-C's signal ignored when a shell started it in the background.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        if options.check:
            return _check(options)
        if options.source is None or options.out is None:
            parser.error("give a source and --out FILE, or --check URL")
        keep_freed_memory()
        return _embed(options)
    except ClipClientError as error:
        _say(f"error: {error}")
        if not isinstance(error, SinkError):  # which says itself what is kept
            _say_what_is_kept(options)
        return 2
    except KeyboardInterrupt:
        _say("stopped")
        _say_what_is_kept(options)
        return 130
    except Exception:
        # Python's own way out has the status 1, which says that the file is written.
        traceback.print_exc()
        _say_what_is_kept(options)
        return 2


def _say_what_is_kept(options: argparse.Namespace) -> None:
    if options.out is not None and has_shards(options.out):
        _say(f"what was finished is kept in {parts_of(options.out)}: {way_on(options.overwrite)}")


def _interrupt(signum: int, frame: FrameType | None) -> None:
    del signum, frame
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "clip-embed",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("source", nargs="?", help="gs://bucket/prefix, or a folder")
    add("--out", type=file, metavar="FILE", help="the Parquet file to write")
    add("--url", default=defaults.URL, help="the server's gRPC address (default: %(default)s)")
    add("--check", metavar="URL", help="embed the server's reference picture and say whether it is right")
    add("--model", default=defaults.MODEL, help="default: %(default)s")
    add("--concurrency", type=count, default=defaults.CONCURRENCY, metavar="N",
        help="photos in flight (default: %(default)s)")  # fmt: skip
    add("--deadline", type=seconds, default=defaults.DEADLINE_S, metavar="SECONDS",
        help="for one photo with all its retries (default: %(default).0f)")  # fmt: skip
    add("--wait", type=seconds, default=defaults.WAIT_FOR_SERVER_S, metavar="SECONDS",
        help="for the server at the start (default: %(default).0f)")  # fmt: skip
    existing = parser.add_mutually_exclusive_group()
    existing.add_argument("--resume", action="store_true", help="complete an OUT that exists")
    existing.add_argument("--overwrite", action="store_true", help="replace OUT and forget earlier runs")
    add("--timings", action="store_true", help="show what each stage cost: load, transport, queue, decode, "
        "preprocess, embed")  # fmt: skip
    add("--json", action="store_true", help="print the summary as one line of JSON on standard output")
    add("--quiet", action="store_true", help="no progress bar")
    add_connection_options(parser)
    return parser


def file(text: str) -> Path:
    path = Path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is a folder; it should name the file to write")
    return path


def count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1")
    return value


def seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is no time above 0")
    return value


def _check(options: argparse.Namespace) -> int:
    try:
        result = check(
            options.check, model=options.model, connection=connection_of(options), wait_s=options.wait
        )
    except ServerBusy as error:
        _say(f"busy: {error}")
        return BUSY
    if options.json:
        print(json.dumps(dataclasses.asdict(result)))
    _say(f"{'right' if result.ok else 'WRONG'}: {result.message}")
    return 0 if result.ok else 1


def _embed(options: argparse.Namespace) -> int:
    source = open_source(options.source, options.concurrency)
    with ClipClient(
        options.url,
        model=options.model,
        connection=connection_of(options),
        deadline_s=options.deadline,
        concurrency=options.concurrency,
    ) as client:
        client.wait(options.wait)
        timing = client.timed() if options.timings else nullcontext()
        with timing as timings, _Progress(quiet=options.quiet) as progress:
            summary = embed_to_parquet(
                client,
                source,
                options.out,
                overwrite=options.overwrite,
                resume=options.resume,
                on_item=progress.show,
            )
    _report(summary, timings.stages() if timings else {}, as_json=options.json)
    if summary.kept_in:
        _say(way_on(options.overwrite))
    if summary.interrupted:
        return 130
    return 1 if summary.failed else 0


class _Progress:
    """Photos a second and errors so far, on standard error."""

    def __init__(self, *, quiet: bool) -> None:
        self._bar = tqdm(unit=" photos", disable=quiet, dynamic_ncols=True, mininterval=0.5)
        self._errors = 0

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def show(self, item: EmbeddedObject) -> None:
        self._bar.update()
        if is_failed(item):
            self._errors += 1
            self._bar.set_postfix(errors=self._errors, refresh=False)


def _report(summary: Summary, stages: dict[str, Stage], *, as_json: bool) -> None:
    if as_json:
        values = {**dataclasses.asdict(summary), "photos_per_second": summary.photos_per_second}
        if stages:
            values["stages"] = {name: dataclasses.asdict(stage) for name, stage in stages.items()}
        print(json.dumps(values))
    failures = ", ".join(f"{count} {code}" for code, count in sorted(summary.failed.items()))
    skipped = f", {summary.skipped} were already there" if summary.skipped else ""
    _say(
        f"{'stopped: ' if summary.interrupted else ''}{summary.photos} photos ({summary.megabytes:.1f} MB) "
        f"in {summary.seconds:.1f} s, {summary.photos_per_second:.1f} photos/s{skipped}"
    )
    total = summary.embedded + sum(summary.failed.values())
    if total or not summary.interrupted:
        _say(
            f"{summary.kept_in or summary.out}: {total} rows, {summary.embedded} embedded"
            + (f"; failed: {failures}" * bool(failures))
        )
    if stages:
        print(table(stages), file=sys.stderr)


def _say(text: str) -> None:
    print(f"clip-embed: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
