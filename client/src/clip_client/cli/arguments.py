"""The arguments of `clip-embed`, and its help."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import get_args

from clip_client import defaults
from clip_client.arguments import (
    add_connection_options,
    add_decode_option,
    add_source_options,
    add_url_option,
    count,
    seconds,
)
from clip_client.errors import CLIENT_CODES, PERMANENT_CODES, SERVER_CODES, SinkError
from clip_client.sinks import open_sink
from clip_client.sinks.base import Sink
from clip_client.terminal import Parser

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
  clip-embed gs://albums/2024/ --out embeddings.parquet --url gpu:8001 --decode cpus:8001
  clip-embed --text "a dog on the beach" --text "two people at sunset"
  clip-embed --check 127.0.0.1:8001

exit status:
  0    every object is embedded; with --check: the embedding is correct
  1    some objects failed; their errors are in OUT.errors.parquet; with --check: the embedding is wrong
  2    fatal error: server, bucket or disk unavailable, or an internal error
  3    with --check: the server is alive but too busy
  130  stopped by Ctrl-C or SIGTERM; finished rows are in OUT.parts/
"""


def parser() -> argparse.ArgumentParser:
    made = Parser(
        "clip-embed",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add("source", nargs="*", help="gs://bucket/prefix, a folder, or one object or file; also s3:// and az:// "
        "(with the extra stores), and https:// of a photo or a .txt list of addresses")  # fmt: skip
    add("--out", metavar="FILE", help="the Parquet file to write: a local path, or gs://bucket/name.parquet")
    add("--work", type=Path, metavar="DIR", help="the local folder for the rows of an output in a bucket, "
        "until it is complete (default: ~/.cache/clip-triton)")  # fmt: skip
    add_url_option(made)
    add("--check", action="append", metavar="URL", help="embed the server's reference picture and compare "
        "the result; can be repeated, to check that all have the same model and settings")  # fmt: skip
    add("--tier", choices=get_args(defaults.Tier), help="with --check: the part of the repository that the "
        "server serves, if not all of it; encode decodes the picture here, or at --decode")  # fmt: skip
    add("--text", action="append", metavar="TEXT", help="embed a text instead of photos, and print its "
        "embedding as a line of JSON; may be given several times")  # fmt: skip
    add("--model", default=defaults.MODEL, help="the model's name on the server (default: %(default)s)")
    add("--concurrency", type=count, default=defaults.CONCURRENCY, metavar="N",
        help="photos in flight to each server (default: %(default)s)")  # fmt: skip
    add_decode_option(made)
    add("--deadline", type=seconds, default=defaults.DEADLINE_S, metavar="SECONDS",
        help="time limit for one photo, retries included (default: %(default).0f)")  # fmt: skip
    add("--wait", type=seconds, default=defaults.WAIT_FOR_SERVER_S, metavar="SECONDS",
        help="how long to wait for the server to start (default: %(default).0f)")  # fmt: skip
    existing = made.add_mutually_exclusive_group()
    existing.add_argument("--resume", action="store_true", help="add missing objects to an existing OUT")
    existing.add_argument("--overwrite", action="store_true", help="replace OUT and forget earlier runs")
    add("--add-source", action="store_true", help="add the rows of this source to those of others in OUT")
    add("--source-name", type=source_name, metavar="NAME", help="record NAME instead of the folder's path or "
        "the bucket, for a folder that is not always at the same path")  # fmt: skip
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
    add_source_options(made)
    add_connection_options(made)
    return made


def unused_for(source: str, options: argparse.Namespace) -> str | None:
    """An option that was given and has no meaning for a source without a scheme: a folder or a file."""
    given = {"--user-project": options.user_project is not None, "--anonymous": options.anonymous}
    return None if "://" in source else next((name for name, used in given.items() if used), None)


def sink(parser: argparse.ArgumentParser, options: argparse.Namespace) -> Sink | None:
    """Opens --out, or ends the process with the parser's error."""
    if options.out is None:
        return None
    try:
        return open_sink(options.out, options.work)
    except SinkError as error:
        parser.error(f"argument --out: {error}")


def source_name(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("the name is empty")
    return text


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
