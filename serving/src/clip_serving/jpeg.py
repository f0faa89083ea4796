"""JPEG headers: the sides, and whether the data can hold them."""

from __future__ import annotations

import math
import struct

from clip_serving.errors import ErrorCode, ItemError
from clip_serving.header import Data, Header, damaged

_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA
_STANDALONE = {0x01, *range(0xD0, 0xD8)}
"""TEM and RST0-7: markers with no segment behind them."""
_BASELINE = {0xC0, 0xC1}
_PROGRESSIVE = {0xC2}
_ARITHMETIC = {0xC9, 0xCA}
_UNDECODABLE = {0xC3, 0xC5, 0xC6, 0xC7, 0xCB, 0xCD, 0xCE, 0xCF}
"""Lossless and hierarchical frames: no photo, and nothing that libjpeg decodes."""
_FRAMES = _BASELINE | _PROGRESSIVE | _ARITHMETIC | _UNDECODABLE
_TAIL = 65536


def read_header(data: Data) -> Header:
    """Walks the segments up to the first scan.

    Raises ItemError: `truncated` where the file ends before its first scan, where no end marker
    follows, or where the data is too short for the blocks that its frame declares; `corrupt` for a
    file that is no sequence of segments; `unsupported_format` for 12-bit, lossless and hierarchical
    frames.
    """
    at = 2
    frame: _Frame | None = None
    while True:
        marker, at = _next_marker(data, at, frame)
        if marker in _STANDALONE or marker == _SOI:
            continue
        if marker == _EOI:
            size = frame.size if frame else None
            raise damaged(ErrorCode.CORRUPT, "JPEG", size, "it ends before any picture data")
        length = int.from_bytes(data[at : at + 2], "big")
        if at + max(length, 2) > len(data):
            raise _short(frame)
        if marker in _FRAMES:
            frame = _read_frame(data, at, length, marker)
        if marker == _SOS:
            break
        at += max(length, 2)
    if frame is None:
        raise damaged(ErrorCode.CORRUPT, "JPEG", None, "a scan starts before any frame header")
    _refuse_short_data(data, at, frame)
    return Header("JPEG", frame.width, frame.height)


class _Frame:
    """The start-of-frame segment: sides in pixels, and the fewest bits that its blocks can take."""

    def __init__(self, width: int, height: int, fewest_bits: int) -> None:
        self.width, self.height, self.fewest_bits = width, height, fewest_bits
        self.size = (width, height)


def _next_marker(data: Data, at: int, frame: _Frame | None) -> tuple[int, int]:
    """The marker at or after `at`, and where its segment starts. Fill bytes and junk are skipped."""
    end = len(data)
    while at < end and data[at] != 0xFF:
        at += 1
    while at < end and data[at] == 0xFF:
        at += 1
    if at >= end:
        raise _short(frame)
    return data[at], at + 1


def _short(frame: _Frame | None) -> ItemError:
    return damaged(
        ErrorCode.TRUNCATED, "JPEG", frame.size if frame else None, "the file ends within its header"
    )


def _read_frame(data: Data, at: int, length: int, marker: int) -> _Frame:
    if length < 8:
        raise damaged(ErrorCode.CORRUPT, "JPEG", None, "its frame header is too short")
    bits, height, width, count = struct.unpack_from(">BHHB", data, at + 2)
    size = (width, height)
    if marker in _UNDECODABLE or bits != 8:
        kind = "lossless or hierarchical coding" if marker in _UNDECODABLE else f"{bits}-bit samples"
        raise damaged(ErrorCode.UNSUPPORTED_FORMAT, "JPEG", size, f"{kind} cannot be decoded")
    if length < 8 + 3 * count or not count:
        raise damaged(ErrorCode.CORRUPT, "JPEG", size, f"its frame header does not fit {count} components")
    sampling = [divmod(data[at + 9 + 3 * index], 16) for index in range(count)]
    if not all(1 <= side <= 4 for pair in sampling for side in pair):
        raise damaged(ErrorCode.CORRUPT, "JPEG", size, "its sampling factors are out of range")
    return _Frame(width, height, _fewest_bits(size, sampling, marker))


def _fewest_bits(size: tuple[int, int], sampling: list[tuple[int, int]], marker: int) -> int:
    """A lower bound of the entropy-coded bits: a code for the DC of each 8x8 block, one for its end.

    A progressive file may leave out all but the DC scan; arithmetic coding has no bound of use.
    """
    if marker in _ARITHMETIC:
        return 0
    widest, tallest = max(h for h, _ in sampling), max(v for _, v in sampling)
    blocks = sum(
        math.ceil(size[0] * h / widest / 8) * math.ceil(size[1] * v / tallest / 8) for h, v in sampling
    )
    if marker in _PROGRESSIVE:  # the other components' scans may be missing too
        return math.ceil(size[0] / 8 / widest) * math.ceil(size[1] / 8 / tallest)
    return 2 * blocks


def _refuse_short_data(data: Data, scan: int, frame: _Frame) -> None:
    """Raises `truncated` before a decoder allocates the pixels of a picture that is not there."""
    if (len(data) - scan) * 8 < frame.fewest_bits:
        cause = f"{len(data):,} bytes cannot hold the picture that its header declares"
        raise damaged(ErrorCode.TRUNCATED, "JPEG", frame.size, cause)
    # Most files end with the marker; some cameras append a preview or padding.
    if bytes(data[-_TAIL:]).rfind(b"\xff\xd9") < 0 and bytes(data[scan:]).rfind(b"\xff\xd9") < 0:
        raise damaged(ErrorCode.TRUNCATED, "JPEG", frame.size, "the end of the picture data is missing")
