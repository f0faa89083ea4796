"""`clip-search serve`."""

from __future__ import annotations

import argparse

from clip_client import ClipClient
from clip_client.arguments import connection_of, count
from clip_search import defaults
from clip_search.commands.common import add_dataset, add_server, say, searchable
from clip_search.errors import SearchError
from clip_search.photos import Photos


def add_serve(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=_serve)
    parser.description = (
        "Serves a web page for this machine alone: search by words or by a photo, and see the matches. A "
        "CLIP server embeds the queries. Needs the extras serve and images."
    )
    add_dataset(parser)
    add = parser.add_argument
    add("--port", type=_port, default=defaults.PORT, metavar="N", help="the page's port; 0 takes a free one "
        "(default: %(default)s)")  # fmt: skip
    add("-k", type=count, default=defaults.PAGE_COUNT, metavar="N",
        help="number of matches (default: %(default)s)")  # fmt: skip
    add("--exact", action="store_true", help="compare with every row, even if the dataset has an index")
    add("--photos", metavar="SOURCE", help="gs://bucket or the folder of the photos, if it is not the source "
        "in the dataset")  # fmt: skip
    add_server(parser)


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) < 1 << 16):
        raise argparse.ArgumentTypeError("must be a number from 0 to 65535")
    return int(text)


def _serve(options: argparse.Namespace) -> int:
    try:
        from clip_search.page.app import Page
        from clip_search.page.embedder import Embedder
        from clip_search.page.server import serve
    except ImportError as error:
        raise SearchError(
            f"the page needs {error.name}. In a clone of clip-triton: pip install './search[serve,images]'"
        ) from error
    photos = Photos(options.photos)
    photos.check()
    dataset = searchable(options)
    with ClipClient(options.url, model=options.model, connection=connection_of(options)) as client:
        page = Page(dataset, photos, Embedder(client, dataset), options.k)
        serve(page, options.port, lambda address: say(f"open {address} (Ctrl-C stops)"))
    return 0
