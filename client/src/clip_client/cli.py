"""`clip-embed`: CLIP embeddings of a bucket or folder of photos, in a Parquet file."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import closing, nullcontext
from types import FrameType
from typing import Any, get_args

from tqdm import tqdm

from clip_client import defaults
from clip_client.arguments import add_connection_options, connection_of
from clip_client.check import check
from clip_client.client import ClipClient
from clip_client.errors import (
    CLIENT_CODES,
    PERMANENT_CODES,
    SERVER_CODES,
    ClipClientError,
    ServerBusy,
    SinkError,
)
from clip_client.memory import keep_freed_memory
from clip_client.pipeline import RunOptions, Summary, embed_all
from clip_client.sinks import open_sink
from clip_client.sinks.base import EmbeddedObject, Sink, how_to_continue
from clip_client.sources import open_source
from clip_client.sources.base import SourceOptions
from clip_client.terminal import printable
from clip_client.timings import Stage, table

_DESCRIPTION = """\
Embeds every photo under gs://bucket/prefix, or in a folder, with a clip-triton server, and writes one row
per object to a Parquet file: source, name, generation, mtime_ns, size, crc32c, embedding, width, height,
format, decode_scale, notices, notice_text. Photos that failed are in a second file, OUT.errors.parquet for
OUT.parquet, with error_code and error_text. The files' metadata (clip_triton) names the model and the hash
of its weights.

OUT is written when all photos are done. An interrupted run keeps finished rows in OUT.parts/ and leaves OUT
as it was. Run the same command again to continue (after --overwrite: with --resume instead).
"""
_EPILOG = """\
examples:
  clip-embed gs://albums/2024/ --out embeddings.parquet --url 127.0.0.1:8001
  clip-embed gs://albums/2024/ --out embeddings.parquet --url gpu-1:8001 --url gpu-2:8001
  clip-embed ./photos --out embeddings.parquet --resume
  clip-embed --text "a dog on the beach" --text "two people at sunset"
  clip-embed --check 127.0.0.1:8001

exit status:
  0    every object is embedded; with --check: the embedding is correct
  1    some objects failed; their errors are in OUT.errors.parquet; with --check: the embedding is wrong
  2    fatal error: server, bucket or disk unavailable, or an internal error
  3    with --check: the server is alive but too busy
  130  stopped by Ctrl-C or SIGTERM; finished rows are in OUT.parts/
"""

BUSY = 3
"""Exit status of --check for a server that sheds load."""


def main(argv: list[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(argv)
    # Python ignores SIGINT if a shell started it in the background.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        if options.check:
            return _check(options)
        if options.text:
            return _embed_text(options)
        if not options.source or options.out is None:
            parser.error("give a source and --out FILE, --text TEXT, or --check URL")
        if len(options.source) > 1:
            parser.error(
                f"{len(options.source)} sources are given, such as {options.source[0]} and "
                f"{options.source[1]}. Give one; if your shell has expanded a pattern, give the folder with "
                "--include 'PATTERN'"
            )
        keep_freed_memory()
        return _embed(options)
    except ClipClientError as error:
        _say(f"error: {error}")
        if not isinstance(error, SinkError):  # a SinkError already says it
            _say_what_is_kept(options)
        return 2
    except KeyboardInterrupt:
        _say("stopped")
        _say_what_is_kept(options)
        return 130
    except Exception:
        # Without this, Python would exit with status 1, which means that the file was written.
        print(printable(traceback.format_exc()), end="", file=sys.stderr)
        _say_what_is_kept(options)
        return 2


def _say_what_is_kept(options: argparse.Namespace) -> None:
    if options.out is not None and options.out.unfinished:
        way = how_to_continue(overwrite=options.overwrite)
        _say(f"finished rows are kept in {options.out.unfinished}: {way}")


def _interrupt(signum: int, frame: FrameType | None) -> None:
    del signum, frame
    raise KeyboardInterrupt


class _Parser(argparse.ArgumentParser):
    def _print_message(self, message: str, file: Any = None) -> None:
        """Every message, errors included, goes through here."""
        super()._print_message(printable(message), file)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        "clip-embed",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("source", nargs="*", help="gs://bucket/prefix, a folder, or one object or file")
    add("--out", type=sink, metavar="FILE", help="the Parquet file to write")
    add("--url", action="append", help=f"a server's gRPC address; can be repeated, for servers of the same "
        f"model and settings (default: {defaults.URL})")  # fmt: skip
    add("--check", action="append", metavar="URL", help="embed the server's reference picture and compare "
        "the result; can be repeated, to check that all have the same model and settings")  # fmt: skip
    add("--text", action="append", metavar="TEXT", help="embed a text instead of photos, and print its "
        "embedding as a line of JSON; may be given several times")  # fmt: skip
    add("--model", default=defaults.MODEL, help="the model's name on the server (default: %(default)s)")
    add("--concurrency", type=count, default=defaults.CONCURRENCY, metavar="N",
        help="photos in flight to each server (default: %(default)s)")  # fmt: skip
    add("--decode", choices=get_args(defaults.Placement), default=defaults.DECODE,
        help="which side decodes photos; client sends pixels, and needs the extra decode "
        "(default: %(default)s)")  # fmt: skip
    add("--deadline", type=seconds, default=defaults.DEADLINE_S, metavar="SECONDS",
        help="time limit for one photo, retries included (default: %(default).0f)")  # fmt: skip
    add("--wait", type=seconds, default=defaults.WAIT_FOR_SERVER_S, metavar="SECONDS",
        help="how long to wait for the server to start (default: %(default).0f)")  # fmt: skip
    existing = parser.add_mutually_exclusive_group()
    existing.add_argument("--resume", action="store_true", help="add missing objects to an existing OUT")
    existing.add_argument("--overwrite", action="store_true", help="replace OUT and forget earlier runs")
    add("--add-source", action="store_true", help="add the rows of this source to those of others in OUT")
    add("--source-name", metavar="NAME", help="record NAME instead of the folder's path or the bucket, for a "
        "folder that is not always at the same path")  # fmt: skip
    for name, text in (("include", "embed only"), ("exclude", "leave out")):
        add(f"--{name}", action="append", default=[], metavar="PATTERN",
            help=f"{text} objects that match, such as '*.jpg' or '2024/*'; can be repeated")  # fmt: skip
    add("--prune", action="store_true", help="remove rows of objects that the source no longer has")
    add("--retry-errors", type=codes, default=frozenset(), metavar="CODES",
        help="embed photos again that failed with these codes, separated by commas, or 'all'. Errors that "
        "may pass are always retried")  # fmt: skip
    add("--timings", action="store_true", help="show what each stage cost: load, transport, queue, decode, "
        "preprocess, embed")  # fmt: skip
    add("--json", action="store_true", help="print the summary as one line of JSON on standard output")
    add("--quiet", action="store_true", help="no progress bar")
    _add_source_options(parser)
    add_connection_options(parser)
    return parser


def _add_source_options(parser: argparse.ArgumentParser) -> None:
    """The fields of SourceOptions."""
    add = parser.add_argument_group("buckets").add_argument
    add("--user-project", metavar="PROJECT", help="the project to bill for a requester-pays bucket")
    add("--anonymous", action="store_true", help="read a public bucket without credentials")
    add("--load-timeout", type=seconds, default=defaults.LOAD_TIMEOUT_S, metavar="SECONDS",
        help="time limit for loading one object, retries included (default: %(default).0f)")  # fmt: skip
    add("--stall-timeout", type=seconds, default=defaults.STALL_TIMEOUT_S, metavar="SECONDS",
        help="longest wait for the next bytes of an object (default: %(default).0f)")  # fmt: skip


def _source_options(options: argparse.Namespace) -> SourceOptions:
    return SourceOptions(
        connections=options.concurrency * len(_urls(options)),
        load_timeout_s=options.load_timeout,
        stall_timeout_s=options.stall_timeout,
        user_project=options.user_project,
        anonymous=options.anonymous,
    )


def _urls(options: argparse.Namespace) -> list[str]:
    return options.url or [defaults.URL]


def sink(text: str) -> Sink:
    try:
        return open_sink(text)
    except SinkError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def codes(text: str) -> frozenset[str]:
    if text == "all":
        return PERMANENT_CODES
    found = frozenset(text.split(","))
    if unknown := found - SERVER_CODES - CLIENT_CODES:
        raise argparse.ArgumentTypeError(
            f"no such error code: {', '.join(sorted(unknown))}. Give 'all' or some of "
            f"{', '.join(sorted(PERMANENT_CODES))}"
        )
    return found


def count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError("must be a positive number of seconds")
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
        print(json.dumps(_rounded(dataclasses.asdict(result))))
    _say(f"{'right' if result.ok else 'WRONG'}: {result.message}")
    return 0 if result.ok else 1


def _embed_text(options: argparse.Namespace) -> int:
    with ClipClient(
        _urls(options), connection=connection_of(options), deadline_s=options.deadline, concurrency=1
    ) as client:
        results = client.embed_text_results(options.text)
    for text, result in zip(options.text, results, strict=True):
        line = {
            "text": text,
            "embedding": None if result.embedding is None else result.embedding.tolist(),
            "error": result.error and str(result.error),
            "notices": [notice.code for notice in result.notices],
        }
        print(json.dumps(line))
    return 1 if any(result.error for result in results) else 0


def _embed(options: argparse.Namespace) -> int:
    run = RunOptions(
        resume=options.resume,
        overwrite=options.overwrite,
        add_source=options.add_source,
        include=options.include,
        exclude=options.exclude,
        prune=options.prune,
        retry_errors=options.retry_errors,
        source_name=options.source_name,
    )
    source = open_source(options.source[0], _source_options(options))
    client = ClipClient(
        _urls(options),
        model=options.model,
        connection=connection_of(options),
        deadline_s=options.deadline,
        concurrency=options.concurrency,
        decode=options.decode,
    )
    with closing(options.out), client:
        source.check()
        options.out.check(run.source_name or source.uri, run)
        client.wait(options.wait)
        for each in client.servers:
            if not each.is_compared:
                _say(f"no answer from the server at {each.url}. The others do its work until it answers")
        timing = client.timed() if options.timings else nullcontext()
        with timing as timings, _Progress(quiet=options.quiet) as progress:
            summary = embed_all(
                client, source, options.out, run, on_item=progress.show, on_total=progress.on_total
            )
    servers = {each.url: each.answered for each in client.servers}
    _report(summary, timings.stages() if timings else {}, servers, as_json=options.json)
    if summary.kept_in:
        _say(how_to_continue(overwrite=options.overwrite))
    if summary.interrupted:
        return 130
    return 1 if summary.failed else 0


class _Progress:
    """A progress line with the number of errors, on a terminal; cleared before anything else is printed."""

    def __init__(self, *, quiet: bool) -> None:
        # The delay keeps a run that fails at once from drawing an empty bar above its error.
        self._bar = tqdm(
            unit=" photos",
            bar_format=_COUNTED,
            disable=True if quiet else None,  # None: drawn only on a terminal
            dynamic_ncols=True,
            mininterval=0.5,
            delay=0.5,
            leave=False,
        )
        self._errors = 0
        self.on_total = None if self._bar.disable else self._total
        """For embed_all(); None if nothing is drawn, to save the second listing."""

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def show(self, item: EmbeddedObject) -> None:
        if self._bar.total is not None and self._bar.n >= self._bar.total:
            self._bar.total = self._bar.n + 1  # more objects than were counted
        self._bar.update()
        if item.error:
            self._errors += 1
            self._bar.set_postfix(errors=self._errors, refresh=False)

    def _total(self, count: int, is_all: bool) -> None:
        self._bar.total = count
        self._bar.bar_format = _OF_ALL if is_all else _OF_AT_LEAST


_RATE = "{rate_noinv_fmt}{postfix}]"
_COUNTED = "photos: {n_fmt} [{elapsed}, " + _RATE
_OF_AT_LEAST = "photos: {n_fmt} of at least {total_fmt} [{elapsed}, " + _RATE
_OF_ALL = "photos: {n_fmt} of {total_fmt}, {percentage:.0f}% [{elapsed}, {remaining} left, " + _RATE


def _report(summary: Summary, stages: dict[str, Stage], servers: dict[str, int], *, as_json: bool) -> None:
    """`servers` are the requests that each server has answered, by address."""
    if as_json:
        values = {**dataclasses.asdict(summary), "photos_per_second": summary.photos_per_second}
        if stages:
            values["stages"] = {name: dataclasses.asdict(stage) for name, stage in stages.items()}
        values["servers"] = servers
        print(json.dumps(_rounded(values)))
    skipped = f", {summary.skipped} already done" if summary.skipped else ""
    _say(
        f"{'stopped: ' if summary.interrupted else ''}{_count(summary.photos, 'photo')} "
        f"({summary.megabytes:.1f} MB) "
        f"in {summary.seconds:.1f} s, {summary.photos_per_second:.1f} photos/s{skipped}"
    )
    for line in _places(summary):
        _say(line)
    if len(servers) > 1:
        answered = ", ".join(f"{url} {count:,}" for url, count in servers.items())
        _say(f"requests answered: {answered}")
    if summary.notices:
        notices = ", ".join(f"{count} {code}" for code, count in sorted(summary.notices.items()))
        _say(f"notices: {notices}")
    for line in _remarks(summary):
        _say(line)
    if stages:
        print(table(stages), file=sys.stderr)


def _places(summary: Summary) -> Iterator[str]:
    """Where the rows are."""
    failed = sum(summary.failed.values())
    codes = ", ".join(f"{count} {code}" for code, count in sorted(summary.failed.items()))
    if not summary.interrupted:
        yield f"{summary.out}: {_count(summary.embedded, 'photo')} embedded"
        if failed:
            yield f"{summary.errors or summary.out}: {_count(failed, 'photo')} failed: {codes}"
    elif total := summary.embedded + failed:
        text = f"{summary.kept_in}: {_count(total, 'row')}, {summary.embedded} embedded"
        yield f"{text}; failed: {codes}" if failed else text


def _remarks(summary: Summary) -> Iterator[str]:
    """What is special about the rows of earlier runs."""
    if summary.assumed:
        rows = _count(summary.assumed, "row does", "rows do")
        yield f"{rows} not name a source, as files of version 0.1; taken as rows of this one"
    if summary.not_retried:
        photos = _count(summary.not_retried, "photo")
        yield f"{photos} failed for good in earlier runs. Embed them again with --retry-errors all"
    if summary.excluded:
        yield f"{_count(summary.excluded, 'object')} left out by --include and --exclude"
    if summary.placeholders:
        yield f"{_count(summary.placeholders, 'empty placeholder')} of folders left out"
    if summary.gone:
        rows = _count(summary.gone, "row of an object", "rows of objects")
        verb = "exists" if summary.gone == 1 else "exist"
        was = "was" if summary.gone == 1 else "were"
        end = f"{was} removed" if summary.pruned else f"{was} kept. Remove with --prune"
        yield f"{rows} that no longer {verb} {end}"


def _count(number: int, noun: str, plural: str = "") -> str:
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def _rounded(value: Any) -> Any:
    """For JSON: floats to six decimals, which are microseconds, and bytes of a megabyte."""
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return round(value, 6) if isinstance(value, float) else value


def _say(text: str) -> None:
    print(f"clip-embed: {printable(text, keep='')}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
