"""Finds photos in the output of clip-embed by example, by text, or by a row, and copies it into databases."""

from __future__ import annotations

import argparse
import os
import sys

from clip_client.errors import ClipClientError
from clip_client.terminal import Parser, interrupts
from clip_search.commands.common import say
from clip_search.commands.duplicates import add_duplicates
from clip_search.commands.index import add_index
from clip_search.commands.label import add_label
from clip_search.commands.load import add_load
from clip_search.commands.query import add_query
from clip_search.commands.serve import add_serve
from clip_search.errors import SearchError

_EPILOG = """\
examples:
  clip-search query embeddings.parquet --like photo.jpg --html sheet.html
  clip-search query embeddings.parquet --like-row 2024/a.jpg -k 20
  clip-search query embeddings.parquet "two people at sunset"
  clip-search index embeddings.parquet
  clip-search duplicates embeddings.parquet --html review.html
  clip-search serve embeddings.parquet
  clip-search label embeddings.parquet --labels labels.txt --out labels.parquet
  clip-search load embeddings.parquet --to lancedb:photos.lancedb
  clip-search COMMAND --help

exit status:
  0    done
  2    fatal error: the dataset, the server or a package is missing, or an option is wrong
  130  stopped by Ctrl-C
  141  the output was closed, for example by head
"""


def main(argv: list[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    try:
        with interrupts():
            status = int(options.command(options))
            sys.stdout.flush()
            return status
    except (SearchError, ClipClientError) as error:
        say(f"error: {error}")
        return 2
    except BrokenPipeError:  # of `clip-search ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it at the end
        return 141
    except OSError as error:
        say(f"error: {error.filename}: {error.strerror}" if error.filename else f"error: {error}")
        return 2
    except KeyboardInterrupt:
        say("stopped")
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        "clip-search",
        description=__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    add_query(commands.add_parser("query", help="the photos nearest to a photo, a text or a row"))
    add_index(commands.add_parser("index", help="build an index, for queries of a million rows"))
    add_serve(commands.add_parser("serve", help="a web page on this machine that searches the dataset"))
    add_duplicates(commands.add_parser("duplicates", help="photos that are there more than once"))
    add_label(commands.add_parser("label", help="the labels that fit each photo best, by their texts"))
    add_load(commands.add_parser("load", help="copy the dataset into a database, or bring it up to date"))
    return parser


if __name__ == "__main__":
    sys.exit(main())
