"""`clip-search query`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from clip_client import ClipClient
from clip_client.arguments import connection_of, count
from clip_client.files import open_regular
from clip_search import defaults
from clip_search.commands.common import (
    add_dataset,
    add_output,
    add_server,
    check_output,
    say,
    searchable,
)
from clip_search.errors import SearchError
from clip_search.photos import Photos
from clip_search.query import Match, Searchable, find, photo_vector, row_number, text_vector
from clip_search.terminal import table
from clip_search.vectors import Vectors


def add_query(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=_query)
    parser.description = (
        "Prints the photos nearest to a text, a photo or a row, by the cosine of their embeddings. Reads the "
        "dataset's index if there is one."
    )
    add = parser.add_argument
    add_dataset(parser)
    add("text", nargs="?", help="words that describe the photos")
    add("--like", type=Path, metavar="FILE", help="find photos like this one")
    add("--like-row", metavar="NAME", help="find photos like this row, by its name; needs no server")
    add("--source", metavar="SOURCE", help="the source of --like-row, if several have this name")
    add("--exact", action="store_true", help="compare with every row, even if the dataset has an index")
    add(
        "-k",
        type=count,
        default=defaults.COUNT,
        metavar="N",
        help="number of matches (default: %(default)s)",
    )
    add_output(parser, "a contact sheet with thumbnails")
    add_server(parser)


def _query(options: argparse.Namespace) -> int:
    given = [each for each in (options.text, options.like, options.like_row) if each is not None]
    if len(given) != 1 or not str(given[0]).strip():
        raise SearchError("give one of: a text, --like FILE, --like-row NAME")
    check_output(options.html, options.dataset)
    example = _read(options.like) if options.like else None
    dataset = searchable(options)
    photos = Photos(options.photos)
    if options.html:
        photos.check()
    if options.like_row is not None:
        number = row_number(dataset, options.like_row, options.source)
        matches = find(dataset, dataset.vector(number), options.k, without=[number])
    else:
        matches = find(dataset, _embedded(options, dataset), options.k)
    if options.html:
        from clip_search.sheet.contact import write_sheet

        title = options.text or f"Photos like {options.like or options.like_row}"
        write_sheet(options.html, title, example, matches, photos)
        say(f"wrote {options.html}")
    _print(matches, as_json=options.json)
    return 0


def _read(path: Path) -> bytes:
    try:
        with open_regular(path) as file:
            return file.read()
    except OSError as error:
        raise SearchError(f"cannot read {path}: {error.strerror}") from error


def _embedded(options: argparse.Namespace, dataset: Searchable) -> Vectors:
    with ClipClient(options.url, model=options.model, connection=connection_of(options)) as client:
        if options.like:
            return photo_vector(client, dataset, options.like)
        return text_vector(client, dataset, options.text)


def _print(matches: list[Match], *, as_json: bool) -> None:
    if as_json:
        values = [
            {"source": match.row.source, "name": match.row.name, "score": round(match.score, 6)}
            for match in matches
        ]
        print(json.dumps(values, indent=2))
        return
    rows = [[f"{match.score:.4f}", match.row.name, match.row.source or ""] for match in matches]
    print(table(["score", "name", "source"], rows))
