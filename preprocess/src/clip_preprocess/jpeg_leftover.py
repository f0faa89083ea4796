"""Bytes between a JPEG scan's last block and the next marker: stray, or part of a damaged picture.

The decoder warns of both alike. If data was lost or inserted in the middle of a scan, the decoder falls into
step again after a few blocks, but it is blocks ahead, and those left over are sound. So bytes are stray if
the scan's last byte ends in the padding that the standard demands, and they are not blocks themselves. In a
scan that refines coefficients, only the padding tells them apart.

The end of the last block is found by decoding shortened scans, so this costs about ten decodes, of odd files
alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from clip_preprocess.headers.jpeg import JpegHeader
from clip_preprocess.jpeg_blocks import are_blocks
from clip_preprocess.jpeg_repair import Parts, Scan, file_of

MAX_WORK = 6_000_000_000
"""Pixels times scans, over all decodes of one photo: about 8 s. A photo that needs more counts as damaged."""
_WARNINGS = 8
"""The scale for a decode whose warnings matter and whose pixels do not: warnings are the same at all."""
MAX_STRAY = 4096
"""Bytes. Zeros may be more: some cameras fill up a block of storage."""
_READ_AHEAD = 24
"""Most bytes that the decoder has read and does not count, with their stuffing."""
_SURE_PADDING = 3
"""Bits. Blocks seldom have so many ones in the place of padding, while stray bytes may look like blocks."""
_SURE_BLOCKS = 16
"""Bytes. So many are seldom blocks to the last bit by chance, whatever the padding is."""
_COUNT = re.compile(r"(\d+) extraneous bytes before marker")

Decode = Callable[[bytes, int], bytes]
"""From a file to its pixels at a scale. Raises ValueError with libjpeg-turbo's first warning."""


class _TooMuchWork(Exception):  # noqa: N818 - reads as the state that it names
    """More than MAX_WORK."""


def without_stray_ends(parts: Parts, header: JpegHeader, decode: Decode) -> Parts | None:
    """The parts without stray bytes behind their scans; None if there are none, or too many to be sure."""
    work = 0
    scans: list[Scan] = []
    for scan in parts.scans:
        before = [each if _is_needed(each, scan) else Scan(each.tables) for each in scans]

        def decoded(data: bytes, scale: int, before: list[Scan] = before, scan: Scan = scan) -> bytes:
            nonlocal work
            work += header.width * header.height * (1 + sum(bool(each.data) for each in before))
            if work > MAX_WORK:
                raise _TooMuchWork
            return decode(file_of([*before, replace(scan, data=data)]), scale)

        try:
            end = _end(scan.data, decoded)
        except _TooMuchWork:
            return None
        if end is None:
            return None
        data, padding = end
        tables = b"".join(each.tables for each in [*scans, scan])
        if not _is_stray(scan.data[len(data) :], padding, scan, tables):
            return None
        scans.append(replace(scan, data=data))
    if scans == list(parts.scans):
        return None
    return replace(parts, scans=tuple(scans), stray=True)


def _is_stray(left_over: bytes, padding: str, scan: Scan, tables: bytes) -> bool:
    """Whether bytes behind a scan are no part of it. `padding` are the unused bits before them."""
    if not left_over.strip(b"\0"):
        return True
    if len(left_over) > MAX_STRAY:
        return False
    if scan.counts_runs:  # bits that count the blocks of the last run may change nothing either
        padding = padding[padding.rfind("0") + 1 :]
    elif scan.refines:  # the last correction may be too small to change a pixel
        ones = padding[padding.rfind("0") + 1 :]
        padding = ones if len(ones) >= _SURE_PADDING else padding
    if "0" in padding:
        return False
    if len(padding) >= _SURE_PADDING and len(left_over) < _SURE_BLOCKS:
        return True
    return not are_blocks(padding, left_over, tables, scan.header)


def _is_needed(earlier: Scan, scan: Scan) -> bool:
    """Whether a progressive scan refines what the earlier one began."""
    if not set(earlier.components) & set(scan.components):
        return False
    (first, last), (begin, end) = earlier.band, scan.band
    return first == 0 or (first <= end and begin <= last)


def _end(data: bytes, decode: Decode) -> tuple[bytes, str] | None:
    """The scan's data up to its last block, and the padding bits in its last byte.

    All of it and "" if nothing is left over. None if the data is damaged.
    """
    try:
        decode(data, _WARNINGS)
    except ValueError as error:
        count = _COUNT.search(str(error))
    else:
        return data, ""
    if count is None:
        return None
    high = len(data) - int(count[1])
    low = max(high - _READ_AHEAD, 0)
    high = min(high + _READ_AHEAD, len(data))  # FF 00 counts as one byte
    while high - low > 1:
        middle = (low + high) // 2
        if _pixels(decode, data[:middle], _WARNINGS) is None:
            low = middle
        else:
            high = middle
    data = data[:high]
    pixels = _pixels(decode, data, 1)
    unused = _unused_bits(data, pixels, decode) if pixels else None
    if unused is None or unused == 8:
        return None
    return data, f"{_last_byte(data):08b}"[8 - unused :]


def _pixels(decode: Decode, data: bytes, scale: int) -> bytes | None:
    """None if the data is too short or damaged."""
    try:
        return decode(data, scale)
    except ValueError as error:
        return b"" if _COUNT.search(str(error)) else None


def _last_byte(data: bytes) -> int:
    return 0xFF if data.endswith(b"\xff\0") else data[-1]


def _unused_bits(data: bytes, pixels: bytes, decode: Decode) -> int:
    """How many of the last byte's bits change nothing if they are flipped."""
    stem = data[:-2] if data.endswith(b"\xff\0") else data[:-1]
    unused = 0
    while unused < 8:
        flipped = bytes([_last_byte(data) ^ 1 << unused])
        if _pixels(decode, stem + flipped + (b"\0" if flipped == b"\xff" else b""), 1) != pixels:
            break
        unused += 1
    return unused
