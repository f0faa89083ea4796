"""The contact sheet: a query's matches as thumbnails."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from clip_search import images
from clip_search.photos import Photos
from clip_search.query import Match
from clip_search.sheet.html import write_page


def write_sheet(
    path: Path, title: str, example: bytes | None, matches: Sequence[Match], photos: Photos
) -> None:
    """Writes the page. `example` is the query's photo. Raises SearchError without OpenCV."""
    images.require()
    write_page(
        path,
        "contact.html",
        title=title,
        example=images.thumbnail(example) if example else "",
        cards=cards_of(matches, photos),
    )


def cards_of(matches: Sequence[Match], photos: Photos) -> list[tuple[Match, str, str]]:
    """Each match with its thumbnail's data URI and "", or with "" and why there is none."""
    loaded = photos.each((match.row for match in matches), images.thumbnail)
    return [(match, *picture_or_reason(found)) for match, found in zip(matches, loaded, strict=True)]


def picture_or_reason(found: str) -> tuple[str, str]:
    """A thumbnail's data URI and "", or "" and why there is none."""
    if found.startswith("data:"):
        return found, ""
    return "", found or "no preview: OpenCV cannot read this format"
