"""GIF: the sides of the canvas and its first frame, and whether the trailer is there."""

from __future__ import annotations

import re
import struct

from clip_preprocess.errors import ErrorCode
from clip_preprocess.headers.base import Data, Header, damaged, header_cut
from clip_preprocess.notices import Notice, NoticeCode

MAX_BLOCKS = 200_000
"""Blocks before the first frame: 50 MB of comments, in blocks as long as the format allows."""
MAX_STRAY_BYTES = 65_536
"""Bytes between blocks that belong to none."""
_EXTENSION, _IMAGE, _TRAILER = 0x21, 0x2C, 0x3B
_INTRODUCER = re.compile(rb"[!,;]")


class _TooManyBlocksError(Exception):
    """More sub-blocks than are walked."""


def read_header(data: Data, _allow_truncated: bool = False) -> Header:
    """Width and height of the canvas, enlarged to hold the first frame, as browsers and Pillow do.

    Raises ItemError: `truncated` if the file ends before its first frame, `too_complex` for more than
    MAX_BLOCKS or MAX_STRAY_BYTES before it. A missing trailer and stray bytes are notices.
    """
    if len(data) < 13:
        raise header_cut("GIF")
    screen = struct.unpack_from("<HH", data, 6)
    try:
        at, stray = _next_frame(data, 13 + _palette(data[10]), MAX_BLOCKS)
    except _TooManyBlocksError:
        cause = f"more than {MAX_BLOCKS:,} blocks come before its first frame"
        raise damaged(ErrorCode.TOO_COMPLEX, "GIF", screen, cause) from None
    if stray > MAX_STRAY_BYTES:
        raise damaged(ErrorCode.TOO_COMPLEX, "GIF", screen, f"{stray:,} stray bytes before its first frame")
    if at < len(data) and data[at] == _TRAILER:
        raise damaged(ErrorCode.CORRUPT, "GIF", screen, "it has no frame")
    if at + 10 > len(data):
        raise header_cut("GIF", screen)
    left, top, width, height = struct.unpack_from("<HHHH", data, at + 1)
    size = (max(screen[0], left + width), max(screen[1], top + height))
    notices = []
    if stray:
        notices.append(Notice(NoticeCode.STRAY_BYTES, f"GIF: {stray} stray bytes before the first frame"))
    if not _has_trailer(data, at):
        notices.append(Notice(NoticeCode.MISSING_END, "GIF: the trailer is missing"))
    return Header("GIF", *size, notices=tuple(notices))


def _palette(flags: int) -> int:
    """Bytes of the palette that the flags of a screen or frame declare."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _next_frame(data: Data, at: int, most: int) -> tuple[int, int]:
    """Where the next frame or the trailer begins, and the stray bytes before it."""
    stray = 0
    while at < len(data) and data[at] not in (_IMAGE, _TRAILER):
        if data[at] == _EXTENSION:
            at, most = _after_blocks(data, at + 2, most)
            continue
        found = _INTRODUCER.search(data, at)
        begin, at = at, found.start() if found else len(data)
        stray += at - begin
    return at, stray


def _after_blocks(data: Data, at: int, most: int) -> tuple[int, int]:
    """The end of a sequence of sub-blocks, and how many more may be walked."""
    while at < len(data) and (length := data[at]):
        at += length + 1
        most -= 1
        if most < 0:
            break
    if most < 1:
        raise _TooManyBlocksError
    return at + 1, most - 1


def _has_trailer(data: Data, frame: int) -> bool:
    """Walks the frames only if the file does not end with a trailer; true if there are too many blocks."""
    if bytes(data[-64:]).rstrip(b"\0\r\n").endswith(b";"):
        return True
    most = MAX_BLOCKS
    at = frame
    try:
        while at + 11 <= len(data) and data[at] == _IMAGE:
            at, most = _after_blocks(data, at + 11 + _palette(data[at + 9]), most)
            at, _ = _next_frame(data, at, most)
            most -= 1
    except _TooManyBlocksError:
        return True
    return at < len(data) and data[at] == _TRAILER
