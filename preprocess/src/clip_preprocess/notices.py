"""Notices: remarks about a photo that has pixels. A notice never fails a photo; an ItemError does."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum


class NoticeCode(str, Enum):
    """Stable codes of a Notice. Their meaning never changes; new ones may be added."""

    STRAY_BYTES = "stray_bytes"
    """Bytes that belong to no part of the format: before the first marker, between segments, in reserved
    fields."""
    DAMAGED_METADATA = "damaged_metadata"
    """A segment or chunk outside of the picture data is broken."""
    MISSING_END = "missing_end"
    """The end marker is missing; every row is there."""
    TRUNCATED = "truncated"
    """Part of the picture is missing and was filled in; only with `allow_truncated`."""
    CLIPPED_RANGE = "clipped_range"
    """Quality `exact` mirrors open_clip: values above 255 are white."""
    OTHER_PICTURE = "other_picture"
    """The file's first picture or frame is blank, or another one was embedded."""
    SINGLE_COLOR = "single_color"
    """All pixels have the same color after preprocessing."""


@dataclass(frozen=True)
class Notice:
    """A remark about a photo. `text` is for people."""

    code: NoticeCode
    text: str

    def wire(self) -> str:
        """The form that travels to a client, on one line: the code, a colon, a space, and the text."""
        return f"{self.code.value}: {' '.join(self.text.split())}"


def one_per_code(notices: Iterable[Notice]) -> tuple[Notice, ...]:
    """The first notice of each code, in their order."""
    first: dict[NoticeCode, Notice] = {}
    for notice in notices:
        first.setdefault(notice.code, notice)
    return tuple(first.values())
