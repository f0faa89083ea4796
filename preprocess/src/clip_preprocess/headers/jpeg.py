"""JPEG: sides, coding and metadata, and whether the data can hold what the header declares."""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass

from clip_preprocess.errors import ErrorCode
from clip_preprocess.headers.base import Data, Header, damaged, header_cut

MAX_SCANS = 64
"""Cameras write 1 scan, web encoders 3 to 12. Each costs a pass over the whole picture, so hundreds of empty
scans in a small file would take minutes."""
MAX_SCANNED_PIXELS = 2_000_000_000
"""Scans times pixels: a few seconds of work (100 megapixels in 20 scans)."""

_SOI, _EOI, _SOS, _APP1 = 0xD8, 0xD9, 0xDA, 0xE1
_STANDALONE = {0x01, *range(0xD0, 0xD8)}
"""TEM and RST0-7: markers without a segment."""
_BASELINE = {0xC0, 0xC1}
_PROGRESSIVE = {0xC2}
_ARITHMETIC = {0xC9, 0xCA}
_UNDECODABLE = {0xC3, 0xC5, 0xC6, 0xC7, 0xCB, 0xCD, 0xCE, 0xCF}
"""Lossless and hierarchical frames, which libjpeg does not decode."""
_FRAMES = _BASELINE | _PROGRESSIVE | _ARITHMETIC | _UNDECODABLE
_MARKER_IN_SCAN = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
"""The end of entropy-coded data; FF 00 is a stuffed byte, FF D0-D7 a restart."""
_SCAN_HEADER = 6
"""Shortest length in bytes: the length itself, the number of components, and three of the coding."""
_EXIF, _XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"
_TAIL = 65536


@dataclass(frozen=True)
class JpegHeader(Header):
    """A JPEG's header. `exif` starts with "Exif\\0\\0" if there is any; `xmp` is the packet's text."""

    components: int
    single_scan: bool
    """All components are in one scan: it is decoded in one pass, with memory for a few rows."""
    exif: bytes
    xmp: bytes


@dataclass(frozen=True)
class _Frame:
    """The start-of-frame segment, and the fewest bits that its blocks need."""

    size: tuple[int, int]
    components: int
    progressive: bool
    fewest_bits: int


def read_header(data: Data, allow_truncated: bool = False) -> JpegHeader:
    """Walks the segments up to the first scan, and through all scans if there may be several.

    Raises ItemError: `truncated` if the file ends before its first scan or, unless `allow_truncated`, has no
    end marker or too little data for the blocks of its frame; `corrupt` if it is not a sequence of segments;
    `unsupported_format` for 12-bit, lossless and hierarchical frames; `too_complex` for more scans than
    MAX_SCANS and MAX_SCANNED_PIXELS allow.
    """
    at = 2
    frame: _Frame | None = None
    exif = xmp = b""
    while True:
        marker, at = _next_marker(data, at, frame)
        if marker in _STANDALONE or marker == _SOI:
            continue
        size = frame.size if frame else None
        if marker == _EOI:
            raise damaged(ErrorCode.CORRUPT, "JPEG", size, "no picture data before its end marker")
        end = at + max(int.from_bytes(data[at : at + 2], "big"), 2)
        if end > len(data):
            raise header_cut("JPEG", size)
        if marker in _FRAMES:
            frame = _read_frame(data, at, end - at, marker)
        elif marker == _APP1:
            segment = bytes(data[at + 2 : end])
            if segment.startswith(_EXIF):
                exif = exif + segment[len(_EXIF) :] if exif else segment
            elif segment.startswith(_XMP):
                xmp = segment[len(_XMP) :]
        elif marker == _SOS:
            break
        at = end
    if frame is None:
        raise damaged(ErrorCode.CORRUPT, "JPEG", None, "a scan comes before the frame header")
    if end - at < _SCAN_HEADER:
        raise damaged(ErrorCode.CORRUPT, "JPEG", frame.size, "its scan header is too short")
    single_scan = not frame.progressive and data[at + 2] == frame.components
    if not single_scan:
        _check_scans(data, end, frame)
    if not allow_truncated:
        _check_length(data, at, frame)
    return JpegHeader("JPEG", *frame.size, frame.components, single_scan, exif, xmp)


def _next_marker(data: Data, at: int, frame: _Frame | None) -> tuple[int, int]:
    """The marker at or after `at`, and the start of its segment. Fill bytes and junk are skipped."""
    end = len(data)
    while at < end and data[at] != 0xFF:
        at += 1
    while at < end and data[at] == 0xFF:
        at += 1
    if at >= end:
        raise header_cut("JPEG", frame.size if frame else None)
    return data[at], at + 1


def _read_frame(data: Data, at: int, length: int, marker: int) -> _Frame:
    if length < 8:
        raise damaged(ErrorCode.CORRUPT, "JPEG", None, "its frame header is too short")
    bits, height, width, count = struct.unpack_from(">BHHB", data, at + 2)
    size = (width, height)
    if marker in _UNDECODABLE or bits != 8:
        kind = "lossless or hierarchical coding" if marker in _UNDECODABLE else f"{bits}-bit samples"
        raise damaged(ErrorCode.UNSUPPORTED_FORMAT, "JPEG", size, f"{kind} cannot be decoded")
    if count not in (1, 3, 4):
        raise damaged(ErrorCode.UNSUPPORTED_FORMAT, "JPEG", size, f"{count} components cannot be decoded")
    if length < 8 + 3 * count:
        raise damaged(
            ErrorCode.CORRUPT, "JPEG", size, f"its frame header is too short for {count} components"
        )
    sampling = [divmod(data[at + 9 + 3 * index], 16) for index in range(count)]
    if not all(1 <= side <= 4 for pair in sampling for side in pair):
        raise damaged(ErrorCode.CORRUPT, "JPEG", size, "its sampling factors are out of range")
    return _Frame(size, count, marker in (0xC2, 0xCA), _fewest_bits(size, sampling, marker))


def _fewest_bits(size: tuple[int, int], sampling: list[tuple[int, int]], marker: int) -> int:
    """A lower bound of the entropy-coded bits: one code for the DC of each 8x8 block, one for its end.

    A progressive file may have a single DC scan; arithmetic coding has no useful bound.
    """
    if marker in _ARITHMETIC:
        return 0
    widest, tallest = max(h for h, _ in sampling), max(v for _, v in sampling)
    if marker in _PROGRESSIVE:
        return math.ceil(size[0] / 8 / widest) * math.ceil(size[1] / 8 / tallest)
    return 2 * sum(
        math.ceil(size[0] * h / widest / 8) * math.ceil(size[1] * v / tallest / 8) for h, v in sampling
    )


def _check_scans(data: Data, at: int, frame: _Frame) -> None:
    """Counts scans from the entropy-coded data at `at` to the end marker; raises `too_complex`."""
    scans = 1
    pixels = max(frame.size[0] * frame.size[1], 1)
    most = max(min(MAX_SCANS, MAX_SCANNED_PIXELS // pixels), 1)
    while found := _MARKER_IN_SCAN.search(data, at):
        marker, at = data[found.end() - 1], found.end()
        if marker == _EOI:
            return
        scans += marker == _SOS
        if scans > most:
            cause = f"it has more than {most} scans, too many for its size"
            raise damaged(ErrorCode.TOO_COMPLEX, "JPEG", frame.size, cause)
        at += int.from_bytes(data[at : at + 2], "big")


def _check_length(data: Data, scan: int, frame: _Frame) -> None:
    """Raises `truncated` before a decoder allocates pixels that the file cannot hold."""
    if (len(data) - scan) * 8 < frame.fewest_bits:
        cause = f"{len(data):,} bytes cannot hold the picture that its header declares"
        raise damaged(ErrorCode.TRUNCATED, "JPEG", frame.size, cause)
    # Most files end with the end marker; some cameras append a preview or padding.
    if bytes(data[-_TAIL:]).rfind(b"\xff\xd9") < 0 and bytes(data[scan:]).rfind(b"\xff\xd9") < 0:
        raise damaged(ErrorCode.TRUNCATED, "JPEG", frame.size, "the end of the picture data is missing")
