"""`clip-search load`."""

from __future__ import annotations

import argparse
import dataclasses
import json
from functools import partial

from clip_search import defaults
from clip_search.commands.common import add_dataset, progress, say
from clip_search.dataset import read_dataset
from clip_search.load import load
from clip_search.loaders import open_loader


def add_load(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=_load)
    parser.description = (
        "Makes a database table equal to the dataset: writes new and changed rows, deletes those that "
        "are gone, creates the index, and reads vectors back to verify them. The same command continues an "
        "interrupted load."
    )
    add_dataset(parser)
    add = parser.add_argument
    add("--to", required=True, metavar="URI", help="lancedb:FOLDER, postgresql://USER@HOST/DATABASE, "
        "qdrant://HOST:PORT, qdrant+https://HOST:PORT (the key is read from QDRANT_API_KEY), qdrant:FOLDER, "
        "or npy:FOLDER for files in clip-retrieval's layout")  # fmt: skip
    add("--table", default=defaults.TABLE, metavar="NAME",
        help="the table or collection (default: %(default)s)")  # fmt: skip
    add("--json", action="store_true", help="print the summary as JSON")


def _load(options: argparse.Namespace) -> int:
    dataset = read_dataset(options.dataset)
    loader = open_loader(options.to, options.table)
    try:
        with progress(" rows") as show:
            summary = load(dataset, loader, partial(show, "load"))
    finally:
        loader.close()
    if options.json:
        print(json.dumps(dataclasses.asdict(summary)))
    say(
        f"{summary.written} rows written, {summary.unchanged} unchanged, {summary.deleted} deleted; "
        f"{summary.verified} vectors read back and compared"
    )
    return 0
