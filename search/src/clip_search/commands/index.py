"""`clip-search index`."""

from __future__ import annotations

import argparse
import dataclasses
import json

from clip_search import defaults
from clip_search.commands.common import add_dataset, progress, say
from clip_search.index import build_index


def add_index(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=_index)
    parser.description = (
        "Writes the folder DATASET.index beside the dataset. Queries then read it instead of all vectors, "
        "until the dataset changes. Measures which share of the exact 10 nearest rows it finds (recall)."
    )
    add_dataset(parser)
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")


def _index(options: argparse.Namespace) -> int:
    with progress(" rows") as show:
        summary = build_index(options.dataset, show)
    if options.json:
        print(json.dumps({**dataclasses.asdict(summary), "path": str(summary.path)}))
    say(
        f"wrote {summary.path}: {summary.rows} rows, {summary.bytes / 1e6:,.4g} MB; recall@{defaults.COUNT} "
        f"{summary.recall:.4f} against exact search"
    )
    if summary.recall < defaults.RECALL:
        say(f"the recall is below {defaults.RECALL}. For exact answers: clip-search query --exact")
    return 0
