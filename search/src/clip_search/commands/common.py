"""What several commands share: options, messages, progress, and the dataset to search."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from clip_client import defaults as client_defaults
from clip_client.arguments import add_connection_options
from clip_client.terminal import printable
from clip_search import defaults
from clip_search.dataset import files_of, read_dataset
from clip_search.errors import SearchError, UnusableIndexError
from clip_search.index import index_path, open_index
from clip_search.query import Searchable


def say(text: str) -> None:
    print(f"clip-search: {printable(text, keep='')}", file=sys.stderr)


def add_dataset(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", type=Path, metavar="DATASET",
        help="the Parquet file that clip-embed wrote, or a folder of such files")  # fmt: skip


def add_output(parser: argparse.ArgumentParser, html: str) -> None:
    add = parser.add_argument
    add("--json", action="store_true", help="print JSON")
    add("--html", type=Path, metavar="FILE", help=f"write {html} (needs the extra images)")
    add("--photos", metavar="SOURCE", help="gs://bucket or the folder of the photos, if it is not the source "
        "in the dataset")  # fmt: skip


def add_server(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--url", default=client_defaults.URL, help="the server's gRPC address (default: %(default)s)")
    add(
        "--model", default=client_defaults.MODEL, help="the model's name on the server (default: %(default)s)"
    )
    add_connection_options(parser)


def check_output(path: Path | None, dataset: Path) -> None:
    """Raises SearchError if `path` is a file of the dataset, a folder, or in a folder that does not exist."""
    if path is None:
        return
    if path.is_dir():
        raise SearchError(f"cannot write {path}: it is a folder. Give a file")
    if not path.parent.is_dir():
        raise SearchError(f"cannot write {path}: the folder {path.parent} does not exist")
    if path.exists() and any(file.exists() and file.samefile(path) for file in files_of(dataset)):
        raise SearchError(f"{path} is the dataset itself. Give another file to write")


@contextmanager
def progress(unit: str) -> Iterator[Callable[[str, int, int], None]]:
    """Yields a function that shows what is done, and how many of how many; on a terminal alone."""
    with tqdm(unit=unit, unit_scale=True, disable=None, leave=False, delay=0.5) as bar:

        def show(what: str, done: int, total: int) -> None:
            if done < bar.n:
                bar.reset(total)
            bar.total = total
            bar.set_description(what, refresh=False)
            bar.update(done - bar.n)

        yield show


def searchable(options: argparse.Namespace) -> Searchable:
    """The dataset's index if there is one, up to date, and not --exact; otherwise all its vectors."""
    if not options.exact and index_path(options.dataset).exists():
        try:
            return open_index(options.dataset)
        except UnusableIndexError as error:
            say(f"{error}. Comparing with every row instead")
    dataset = read_dataset(options.dataset)
    if len(dataset) >= defaults.INDEX_ROWS and not options.exact:
        say(f"{len(dataset)} rows. An index answers faster: clip-search index {options.dataset}")
    return dataset
