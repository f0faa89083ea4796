"""The review page: groups of duplicates, the one to keep marked."""

from __future__ import annotations

from pathlib import Path

from clip_search import images
from clip_search.duplicates import Duplicates
from clip_search.photos import Photos
from clip_search.sheet.contact import picture_or_reason
from clip_search.sheet.html import write_page


def write_review(path: Path, found: Duplicates, photos: Photos) -> None:
    """Writes the page. Raises SearchError without OpenCV."""
    images.require()
    loaded = photos.each((copy.row for group in found.groups for copy in group), images.thumbnail)
    groups = [[(copy, *picture_or_reason(next(loaded))) for copy in group] for group in found.groups]
    write_page(path, "review.html", title="Duplicates", groups=groups, found=found)
