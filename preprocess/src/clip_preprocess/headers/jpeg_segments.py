"""The segments of a JPEG file, in linear time, whatever lies between them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from clip_preprocess.errors import ErrorCode
from clip_preprocess.headers.base import Data, damaged

SOI, EOI, SOS, DQT, DHT, DNL, DRI, DHP = 0xD8, 0xD9, 0xDA, 0xDB, 0xC4, 0xDC, 0xDD, 0xDE
APP0, APP1, APP2, APP14 = 0xE0, 0xE1, 0xE2, 0xEE
PROGRESSIVE, JPEG_LS = 0xC2, 0xF7
FRAMES = {0xC0, 0xC1, PROGRESSIVE}
"""Start-of-frame markers of what is decoded."""

MAX_SEGMENTS = 10_000
"""Each costs a microsecond. A file of the default limit's 32 MiB in segments of full length has 512."""
_START = re.compile(rb"\xff\xd8(?:\xff|.{1,57}?\xff[\xc0-\xc2\xc4\xdb\xdd\xe0-\xef\xfe])", re.DOTALL)
"""The first marker, and another one behind it or behind stray bytes."""
_MARKER = re.compile(rb"\xff[\xc0-\xcf\xd8-\xef\xf7\xfe]")
"""The markers that a header may have; restarts, FF 00 and reserved markers are stray bytes there."""
_MARKER_IN_SCAN = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
"""The end of entropy-coded data; FF 00 is a stuffed byte, FF D0-D7 a restart."""


class Segment(NamedTuple):
    """A marker and the bytes that belong to it."""

    marker: int
    body: int
    """The first byte behind the length."""
    end: int
    """Behind the last byte; beyond the end of a file that ends within the segment."""
    stray: bool
    """Whether stray bytes precede the marker."""


def matches(start: bytes) -> bool:
    """Whether a file that starts with these 64 bytes is a JPEG."""
    return _START.match(start) is not None


def segments(data: Data, at: int) -> Iterator[Segment]:
    """All segments from `at` on. Ends with the file, or behind a segment that the file cuts.

    Raises ItemError: `too_complex` beyond MAX_SEGMENTS.
    """
    in_scan = False
    for _ in range(MAX_SEGMENTS):
        if in_scan:
            at = end_of_scan(data, at)
        found = _MARKER.match(data, at) or _MARKER.search(data, at)
        if found is None:
            return
        body = found.end()
        marker = data[body - 1]
        stray = body > at + 2 and bool(bytes(data[at : body - 2]).strip(b"\xff"))
        if marker in (SOI, EOI):
            end = body
        else:
            end = body + max(int.from_bytes(data[body : body + 2], "big"), 2)
            body += 2
        yield Segment(marker, body, end, stray)
        if end > len(data):
            return
        at, in_scan = end, marker == SOS
    raise damaged(ErrorCode.TOO_COMPLEX, "JPEG", None, f"it has more than {MAX_SEGMENTS:,} segments")


def end_of_scan(data: Data, at: int) -> int:
    """Where the entropy-coded data from `at` on ends: the place of the next marker, or the file's end."""
    found = _MARKER_IN_SCAN.search(data, at)
    return found.start() if found else len(data)
