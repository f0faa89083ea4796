"""Finds photos in the output of clip-embed by example, by text, or by a row, and copies it into databases."""

from __future__ import annotations

import argparse
import dataclasses
import json
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from tqdm import tqdm

from clip_client import ClipClient
from clip_client import defaults as client_defaults
from clip_client.arguments import add_connection_options, connection_of
from clip_client.errors import ClipClientError
from clip_client.sinks.base import describe_model
from clip_client.terminal import printable
from clip_search import defaults, labels
from clip_search.dataset import read_dataset
from clip_search.duplicates import Duplicates, find_duplicates
from clip_search.errors import SearchError, UnusableIndexError
from clip_search.index import build_index, index_path, open_index
from clip_search.load import load
from clip_search.loaders import open_loader
from clip_search.photos import Photos
from clip_search.query import Match, Searchable, check_same_model, find, photo_vector, row_number, text_vector
from clip_search.terminal import table
from clip_search.vectors import Vectors

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

exit status:
  0    done
  2    fatal error: the dataset, the server or a package is missing, or an option is wrong
  130  stopped by Ctrl-C
"""


def main(argv: list[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    # Python ignores SIGINT if a shell started it in the background.
    before = {number: signal.signal(number, _interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        return int(options.command(options))
    except (SearchError, ClipClientError) as error:
        _say(f"error: {error}")
        return 2
    except OSError as error:
        _say(f"error: {error.filename}: {error.strerror}" if error.filename else f"error: {error}")
        return 2
    except KeyboardInterrupt:
        _say("stopped")
        return 130
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say(text: str) -> None:
    print(f"clip-search: {printable(text, keep='')}", file=sys.stderr)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    del signum, frame
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "clip-search",
        description=__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_query(commands.add_parser("query", help="the photos nearest to a photo, a text or a row"))
    _add_index(commands.add_parser("index", help="build an index, for queries of a million rows"))
    _add_serve(commands.add_parser("serve", help="a web page on this machine that searches the dataset"))
    _add_duplicates(commands.add_parser("duplicates", help="photos that are there more than once"))
    _add_label(commands.add_parser("label", help="the labels that fit each photo best, by their texts"))
    _add_load(commands.add_parser("load", help="copy the dataset into a database, or bring it up to date"))
    return parser


def _add_dataset(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", type=Path, metavar="DATASET",
        help="the Parquet file that clip-embed wrote, or a folder of such files")  # fmt: skip


def _add_output(parser: argparse.ArgumentParser, html: str) -> None:
    add = parser.add_argument
    add("--json", action="store_true", help="print JSON")
    add("--html", type=Path, metavar="FILE", help=f"write {html} (needs the extra images)")
    add("--photos", metavar="SOURCE", help="gs://bucket or the folder of the photos, if it is not the source "
        "in the dataset")  # fmt: skip


def _add_query(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=_query)
    add = parser.add_argument
    _add_dataset(parser)
    add("text", nargs="?", help="words that describe the photos")
    add("--like", type=Path, metavar="FILE", help="find photos like this one")
    add("--like-row", metavar="NAME", help="find photos like this row, by its name; needs no server")
    add("--source", metavar="SOURCE", help="the source of --like-row, if several have this name")
    add("--exact", action="store_true", help="compare with every row, even if the dataset has an index")
    add(
        "-k",
        type=_count,
        default=defaults.COUNT,
        metavar="N",
        help="number of matches (default: %(default)s)",
    )
    _add_output(parser, "a contact sheet with thumbnails")
    _add_server(parser)


def _add_server(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--url", default=client_defaults.URL, help="the server's gRPC address (default: %(default)s)")
    add(
        "--model", default=client_defaults.MODEL, help="the model's name on the server (default: %(default)s)"
    )
    add_connection_options(parser)


def _add_index(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=_index)
    parser.description = (
        "Writes the folder DATASET.index beside the dataset. Queries then read it instead of all vectors, "
        "until the dataset changes. Measures which share of the exact 10 nearest rows it finds (recall)."
    )
    _add_dataset(parser)
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")


def _index(options: argparse.Namespace) -> int:
    with _progress(" rows") as show:
        summary = build_index(options.dataset, show)
    if options.json:
        print(json.dumps({**dataclasses.asdict(summary), "path": str(summary.path)}))
    _say(
        f"wrote {summary.path}: {summary.rows} rows, {summary.bytes / 1e6:.0f} MB; recall@{defaults.COUNT} "
        f"{summary.recall:.4f} against exact search"
    )
    if summary.recall < defaults.RECALL:
        _say(f"the recall is below {defaults.RECALL}. For exact answers: clip-search query --exact")
    return 0


@contextmanager
def _progress(unit: str) -> Iterator[Callable[[str, int, int], None]]:
    """Yields a function that shows what is done, and how many of how many; on a terminal alone."""
    with tqdm(unit=unit, unit_scale=True, disable=None, leave=False, delay=0.5) as bar:

        def show(what: str, done: int, total: int) -> None:
            if done < bar.n:
                bar.reset(total)
            bar.total = total
            bar.set_description(what, refresh=False)
            bar.update(done - bar.n)

        yield show


def _add_serve(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=_serve)
    parser.description = (
        "Serves a web page for this machine alone: search by words or by a photo, and see the matches. A "
        "CLIP server embeds the queries. Needs the extras serve and images."
    )
    _add_dataset(parser)
    add = parser.add_argument
    add("--port", type=int, default=defaults.PORT, metavar="N", help="the page's port; 0 takes a free one "
        "(default: %(default)s)")  # fmt: skip
    add("-k", type=_count, default=defaults.PAGE_COUNT, metavar="N",
        help="number of matches (default: %(default)s)")  # fmt: skip
    add("--exact", action="store_true", help="compare with every row, even if the dataset has an index")
    add("--photos", metavar="SOURCE", help="gs://bucket or the folder of the photos, if it is not the source "
        "in the dataset")  # fmt: skip
    _add_server(parser)


def _serve(options: argparse.Namespace) -> int:
    try:
        from clip_search.page.app import Page
        from clip_search.page.embedder import Embedder
        from clip_search.page.server import serve
    except ImportError as error:
        raise SearchError(
            f"the page needs {error.name}. In a clone of clip-triton: pip install './search[serve,images]'"
        ) from error
    dataset = _searchable(options)
    with ClipClient(options.url, model=options.model, connection=connection_of(options)) as client:
        page = Page(dataset, Photos(options.photos), Embedder(client, dataset), options.k)
        serve(page, options.port, lambda address: _say(f"open {address} (Ctrl-C stops)"))
    return 0


def _add_duplicates(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=_duplicates)
    parser.description = (
        "Groups equal files, and photos that look alike: by their embeddings, verified on the pixels. Names "
        "the photo of each group to keep: the largest, then the sharpest. Deletes nothing."
    )
    _add_dataset(parser)
    add = parser.add_argument
    add("--threshold", type=_cosine, default=defaults.THRESHOLD, metavar="COSINE",
        help="the least cosine of candidates (default: %(default)s)")  # fmt: skip
    add("--exposure", action="store_true", help="add the columns brightness (0 to 1) and clipped (the share "
        "of black and white pixels) to the table; JSON has them always")  # fmt: skip
    add("--no-verify", action="store_true", help="take candidates as duplicates without loading photos")
    _add_output(parser, "a review page with thumbnails")


def _cosine(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError("must be above 0 and at most 1")
    return value


def _duplicates(options: argparse.Namespace) -> int:
    photos = Photos(options.photos)
    dataset = read_dataset(options.dataset)
    with _progress(" steps") as show:
        found = find_duplicates(dataset, options.threshold, None if options.no_verify else photos, show)
    if options.html:
        from clip_search.sheet.review import write_review

        write_review(options.html, found, photos)
        _say(f"wrote {options.html}")
    print(
        json.dumps(found.to_dict(), indent=2)
        if options.json
        else _duplicates_table(found, exposure=options.exposure)
    )
    spare = sum(len(group) - 1 for group in found.groups)
    _say(
        f"{len(found.groups)} groups, {spare} photos besides those to keep; {found.rejected} candidate pairs "
        f"look different, {len(found.unreadable)} photos could not be verified"
    )
    return 0


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _duplicates_table(found: Duplicates, *, exposure: bool) -> str:
    heads = ["group", "kind", "cosine", "MP", "sharpness", "brightness", "clipped", "name", "source"]
    rows = []
    for number, group in enumerate(found.groups, 1):
        for place, copy in enumerate(group):
            cells = [
                str(number),
                copy.kind if place else "keep",
                f"{copy.cosine:.4f}",
                f"{copy.pixels / 1e6:.1f}" if copy.pixels else "",
                *(
                    "" if value is None else format(value, form)
                    for value, form in (
                        (copy.sharpness, ".0f"),
                        (copy.brightness, ".2f"),
                        (copy.clipped, ".3f"),
                    )
                ),
                copy.row.name,
                copy.row.source or "",
            ]
            rows.append(cells)
    if not exposure:
        heads, rows = heads[:5] + heads[7:], [cells[:5] + cells[7:] for cells in rows]
    return table(heads, rows)


def _add_label(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=_label)
    parser.description = (
        "Writes a Parquet file with the best labels of each photo. The model needs a text tower."
    )
    _add_dataset(parser)
    add = parser.add_argument
    add("--labels", type=Path, required=True, metavar="FILE", help="the labels, one on each line")
    add("--templates", type=Path, metavar="FILE", help="prompts, one on each line, with {} for the label "
        "(default: a few that begin with 'a photo of')")  # fmt: skip
    add(
        "--out",
        type=Path,
        required=True,
        metavar="FILE",
        help="the Parquet file to write; replaced if it exists",
    )
    add("--count", type=_count, default=defaults.LABELS, metavar="N",
        help="labels stored for each photo (default: %(default)s)")  # fmt: skip
    _add_server(parser)


def _label(options: argparse.Namespace) -> int:
    names = labels.read_lines(options.labels, "labels")
    given = options.templates
    templates = labels.read_lines(given, "templates") if given else list(defaults.TEMPLATES)
    dataset = read_dataset(options.dataset)
    with ClipClient(options.url, model=options.model, connection=connection_of(options)) as client:
        check_same_model(dataset, describe_model(client.info))
        parameters = client.text_info.parameters
        vectors = labels.label_vectors(client.embed_text, names, templates)
    scale, bias = parameters.get("logit_scale"), parameters.get("logit_bias")
    if not scale:
        raise SearchError("the server does not report the model's logit scale. Export the model again")
    found = labels.assign(
        dataset.vectors, vectors, options.count, float(scale), float(bias) if bias else None
    )
    labels.write_labels(options.out, dataset, names, found)
    counts = Counter(names[index] for index in found.labels[:, 0])
    print(table(["photos", "label"], [[str(count), name] for name, count in counts.most_common()]))
    _say(f"wrote {options.out}: {len(dataset)} rows")
    return 0


def _add_load(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=_load)
    _add_dataset(parser)
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
        with tqdm(unit=" rows", disable=None, leave=False, delay=0.5) as bar:

            def show(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            summary = load(dataset, loader, show)
    finally:
        loader.close()
    if options.json:
        print(json.dumps(dataclasses.asdict(summary)))
    _say(
        f"{summary.written} rows written, {summary.unchanged} unchanged, {summary.deleted} deleted; "
        f"{summary.verified} vectors read back and compared"
    )
    return 0


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _query(options: argparse.Namespace) -> int:
    given = [each for each in (options.text, options.like, options.like_row) if each is not None]
    if len(given) != 1:
        raise SearchError("give one of: a text, --like FILE, --like-row NAME")
    dataset = _searchable(options)
    photos = Photos(options.photos)
    example: bytes | None = None
    if options.like_row is not None:
        number = row_number(dataset, options.like_row, options.source)
        matches = find(dataset, dataset.vector(number), options.k, without=[number])
    else:
        example = options.like.read_bytes() if options.like else None
        matches = find(dataset, _embedded(options, dataset), options.k)
    if options.html:
        from clip_search.sheet.contact import write_sheet

        title = options.text or f"Photos like {options.like or options.like_row}"
        write_sheet(options.html, title, example, matches, photos)
        _say(f"wrote {options.html}")
    _print(matches, as_json=options.json)
    return 0


def _searchable(options: argparse.Namespace) -> Searchable:
    """The dataset's index if there is one, up to date, and not --exact; otherwise all its vectors."""
    if not options.exact and index_path(options.dataset).exists():
        try:
            return open_index(options.dataset)
        except UnusableIndexError as error:
            _say(f"{error}. Comparing with every row instead")
    dataset = read_dataset(options.dataset)
    if len(dataset) >= defaults.INDEX_ROWS and not options.exact:
        _say(f"{len(dataset)} rows. An index answers faster: clip-search index {options.dataset}")
    return dataset


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


if __name__ == "__main__":
    sys.exit(main())
