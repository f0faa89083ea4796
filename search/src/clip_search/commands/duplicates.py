"""`clip-search duplicates`."""

from __future__ import annotations

import argparse
import json
from contextlib import suppress

from clip_search import defaults
from clip_search.commands.common import add_dataset, add_output, check_output, progress, say
from clip_search.dataset import read_dataset
from clip_search.duplicates import Duplicates, find_duplicates
from clip_search.photos import Photos
from clip_search.terminal import table


def add_duplicates(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=_duplicates)
    parser.description = (
        "Groups equal files, and photos that look alike: by their embeddings, verified on the pixels. Names "
        "the photo of each group to keep: the largest, then the sharpest. Deletes nothing."
    )
    add_dataset(parser)
    add = parser.add_argument
    add("--threshold", type=_cosine, default=defaults.THRESHOLD, metavar="COSINE",
        help="the least cosine of candidates (default: %(default)s)")  # fmt: skip
    add("--exposure", action="store_true", help="add the columns brightness (0 to 1) and clipped (the share "
        "of black and white pixels) to the table; JSON has them always")  # fmt: skip
    add("--no-verify", action="store_true", help="take candidates as duplicates without loading photos")
    add_output(parser, "a review page with thumbnails")


def _cosine(text: str) -> float:
    with suppress(ValueError):
        if 0 < (value := float(text)) <= 1:
            return value
    raise argparse.ArgumentTypeError("must be a number above 0 and at most 1")


def _duplicates(options: argparse.Namespace) -> int:
    check_output(options.html, options.dataset)
    photos = Photos(options.photos)
    photos.check()
    dataset = read_dataset(options.dataset)
    with progress(" steps") as show:
        found = find_duplicates(dataset, options.threshold, None if options.no_verify else photos, show)
    if options.html:
        from clip_search.sheet.review import write_review

        write_review(options.html, found, photos)
        say(f"wrote {options.html}")
    print(
        json.dumps(found.to_dict(), indent=2)
        if options.json
        else _duplicates_table(found, exposure=options.exposure)
    )
    spare = sum(len(group) - 1 for group in found.groups)
    say(
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
                _number(copy.sharpness, ".0f"),
                _number(copy.brightness, ".2f"),
                _number(copy.clipped, ".3f"),
                copy.row.name,
                copy.row.source or "",
            ]
            rows.append(cells)
    if not exposure:
        heads, rows = heads[:5] + heads[7:], [cells[:5] + cells[7:] for cells in rows]
    return table(heads, rows)
