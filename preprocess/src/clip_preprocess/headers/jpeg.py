"""JPEG: sides, coding and metadata, and whether the data can hold what the header declares."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from clip_preprocess import exif
from clip_preprocess.errors import ErrorCode
from clip_preprocess.headers.base import Data, Header, damaged, header_cut
from clip_preprocess.headers.jpeg_segments import (
    APP0,
    APP1,
    APP2,
    APP14,
    DHP,
    DNL,
    EOI,
    FRAMES,
    JPEG_LS,
    PROGRESSIVE,
    SOI,
    SOS,
    Segment,
    end_of_scan,
    segments,
)
from clip_preprocess.notices import Notice, NoticeCode

MAX_SCANS = 64
"""Cameras write 1 scan, web encoders 3 to 12. Each costs a pass over the whole picture, so hundreds of empty
scans in a small file would take minutes."""
MAX_SCANNED_PIXELS = 2_000_000_000
"""Scans times pixels: a few seconds of work (100 megapixels in 20 scans)."""
MAX_EXIF = 1 << 20
"""Bytes of EXIF that are read for the orientation. Its first directory is at the start; thumbnails follow."""

STRAY = Notice(NoticeCode.STRAY_BYTES, "JPEG: bytes that belong to no segment were skipped")
NO_END = Notice(NoticeCode.MISSING_END, "JPEG: the end marker is missing; the picture is complete")
_HALF_REFINED = "the last scans, which refine the picture, are missing"

_VARIANTS = {
    0xC3: "lossless JPEG",
    0xC5: "hierarchical JPEG",
    0xC6: "hierarchical JPEG",
    0xC7: "hierarchical lossless JPEG",
    0xC9: "JPEG with arithmetic coding",
    0xCA: "progressive JPEG with arithmetic coding",
    0xCB: "lossless JPEG with arithmetic coding",
    0xCD: "hierarchical JPEG with arithmetic coding",
    0xCE: "hierarchical JPEG with arithmetic coding",
    0xCF: "hierarchical lossless JPEG with arithmetic coding",
    DHP: "hierarchical JPEG",
    JPEG_LS: "JPEG-LS",
}
"""What the start of frame says that is not decoded, by its marker."""
_SCAN_HEADER = 6
"""Shortest length in bytes: the length itself, the number of components, and three of the coding."""
_EXIF, _XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"
_LAST_TRANSFORM = b"\2"
"""Adobe's color transforms are 0 (none), 1 (YCbCr) and 2 (YCCK)."""
_TAIL = 65536


def damaged_metadata(text: str) -> Notice:
    """A notice for a segment that the pixels do not depend on."""
    return Notice(NoticeCode.DAMAGED_METADATA, f"JPEG: {text}")


@dataclass(frozen=True)
class JpegHeader(Header):
    """A JPEG's header. `exif` starts with "Exif\\0\\0" if there is any; `xmp` is the packet's text."""

    components: int
    single_scan: bool
    """All components are in one scan: it is decoded in one pass, with memory for a few rows."""
    progressive: bool
    exif: bytes
    xmp: bytes
    as_written: bool = True
    """The file can be decoded as it is. If not, jpeg_repair writes one that can."""


@dataclass(frozen=True)
class _Frame:
    """The start-of-frame segment."""

    size: tuple[int, int]
    progressive: bool
    sampling: tuple[tuple[int, int], ...]
    """Horizontal and vertical factors of each component."""
    ids: tuple[int, ...]

    @property
    def components(self) -> int:
        return len(self.ids)

    @property
    def fewest_bits(self) -> int:
        """A lower bound of the entropy-coded bits: one code for the DC of each 8x8 block, one for its end.

        A progressive file may have a single DC scan.
        """
        (width, height), sampling = self.size, self.sampling
        widest, tallest = max(h for h, _ in sampling), max(v for _, v in sampling)
        if self.progressive:
            return math.ceil(width / 8 / widest) * math.ceil(height / 8 / tallest)
        return 2 * sum(
            math.ceil(width * h / widest / 8) * math.ceil(height * v / tallest / 8) for h, v in sampling
        )


@dataclass
class _Found:
    """The segments before the first scan."""

    frame: _Frame | None = None
    exif: list[bytes] = field(default_factory=list)
    xmp: bytes = b""
    stray: bool = False
    ended: bool = False
    """An end marker comes before the first scan."""
    notices: list[Notice] = field(default_factory=list)

    @property
    def size(self) -> tuple[int, int] | None:
        return self.frame.size if self.frame else None


def read_header(data: Data, allow_truncated: bool = False) -> JpegHeader:
    """Walks the segments up to the first scan, and through all scans if there may be several.

    Raises ItemError: `truncated` if the file ends before its first scan or, unless `allow_truncated`, has too
    few data for the blocks of its frame or too few scans; `corrupt` if it is not a sequence of segments;
    `unsupported_format` for 12-bit, lossless, hierarchical and arithmetic coding; `too_complex` for more
    scans than MAX_SCANS and MAX_SCANNED_PIXELS allow, or too many segments.
    """
    walk = segments(data, 2)
    found = _Found()
    scan = _to_first_scan(data, walk, found)
    frame = found.frame
    if frame is None:
        raise damaged(ErrorCode.CORRUPT, "JPEG", None, "a scan comes before the frame header")
    if scan.end - scan.body + 2 < _SCAN_HEADER:
        raise damaged(ErrorCode.CORRUPT, "JPEG", frame.size, "its scan header is too short")
    declared = frame.size
    if not frame.size[1]:
        frame = replace(frame, size=(frame.size[0], _height_behind(data, scan)))
    single_scan = not frame.progressive and data[scan.body] == frame.components
    notices = [*found.notices, *([STRAY] if found.stray else [])]
    metadata = b"".join(found.exif)[:MAX_EXIF]
    if metadata and not exif.is_readable(metadata):
        notices.append(damaged_metadata("its EXIF segment is damaged"))
    if not single_scan and not _all_scans(data, scan, walk, frame):
        if not allow_truncated:
            raise damaged(ErrorCode.TRUNCATED, "JPEG", frame.size, _HALF_REFINED)
        notices.append(Notice(NoticeCode.TRUNCATED, f"JPEG: {_HALF_REFINED}"))
    if not allow_truncated:
        _check_length(data, scan.end, frame)
    as_written = frame.size == declared and not found.stray and _has_end(data, scan.end)
    return JpegHeader(
        "JPEG",
        *frame.size,
        frame.components,
        single_scan,
        frame.progressive,
        metadata,
        found.xmp,
        as_written,
        notices=tuple(notices),
    )


def _to_first_scan(data: Data, walk: Iterator[Segment], found: _Found) -> Segment:
    """Reads what lies before the first scan into `found`; returns the scan's header."""
    for each in walk:
        found.stray |= each.stray or each.marker in (SOI, EOI)
        found.ended |= each.marker == EOI
        if each.end > len(data):
            break
        if each.marker == SOS:
            return each
        if each.marker in FRAMES or each.marker in _VARIANTS:
            found.frame = _read_frame(data, each)
        elif each.marker == APP1:
            _read_metadata(bytes(data[each.body : each.end]), found)
        elif each.marker in (APP0, APP2, APP14):
            _check_application(each.marker, bytes(data[each.body : min(each.end, each.body + 14)]), found)
    if found.ended:
        cause = "no picture data before its end marker"
        raise damaged(ErrorCode.CORRUPT, "JPEG", found.size, cause)
    raise header_cut("JPEG", found.size)


def _read_metadata(segment: bytes, found: _Found) -> None:
    if segment.startswith(_EXIF):
        found.exif.append(segment[len(_EXIF) :] if found.exif else segment)
    elif segment.startswith(_XMP):
        found.xmp = segment[len(_XMP) :]


def _check_application(marker: int, body: bytes, found: _Found) -> None:
    """Notes a segment whose first 14 bytes are not what its name promises. libjpeg-turbo ignores it."""
    for kind, name, length in (
        (APP0, b"JFIF\0", 14),
        (APP14, b"Adobe", 12),
        (APP2, b"ICC_PROFILE\0", 14),
    ):
        if marker == kind and body.startswith(name) and len(body) < length:
            text = f"its {name.split(b'_')[0].rstrip(bytes(1)).decode()} segment is too short"
            found.notices.append(damaged_metadata(text))
    if marker == APP14 and body.startswith(b"Adobe") and body[11:12] > _LAST_TRANSFORM:
        found.notices.append(damaged_metadata("its Adobe segment has an unknown color transform"))


def _read_frame(data: Data, segment: Segment) -> _Frame:
    length = segment.end - segment.body
    if length < 6:
        raise damaged(ErrorCode.CORRUPT, "JPEG", None, "its frame header is too short")
    bits, height, width, count = struct.unpack_from(">BHHB", data, segment.body)
    size = (width, height)
    if segment.marker in _VARIANTS or bits != 8:
        kind = _VARIANTS.get(segment.marker, f"JPEG with {bits}-bit samples")
        raise damaged(ErrorCode.UNSUPPORTED_FORMAT, "JPEG", size, f"{kind} is not supported")
    if count not in (1, 3, 4):
        raise damaged(
            ErrorCode.UNSUPPORTED_FORMAT, "JPEG", size, f"JPEG with {count} components is not supported"
        )
    if length < 6 + 3 * count:
        raise damaged(
            ErrorCode.CORRUPT, "JPEG", size, f"its frame header is too short for {count} components"
        )
    entries = [data[at : at + 2] for at in range(segment.body + 6, segment.body + 6 + 3 * count, 3)]
    sampling = tuple(divmod(entry[1], 16) for entry in entries)
    if not all(1 <= side <= 4 for pair in sampling for side in pair):
        raise damaged(ErrorCode.CORRUPT, "JPEG", size, "its sampling factors are out of range")
    return _Frame(size, segment.marker == PROGRESSIVE, sampling, tuple(entry[0] for entry in entries))


def _height_behind(data: Data, scan: Segment) -> int:
    """The height in the DNL segment behind the first scan; 0 if there is none."""
    after = next(segments(data, end_of_scan(data, scan.end)), None)
    if after is None or after.marker != DNL:
        return 0
    return int.from_bytes(data[after.body : after.body + 2], "big")


def _all_scans(data: Data, first: Segment, walk: Iterator[Segment], frame: _Frame) -> bool:
    """Whether the scans hold every bit of every coefficient. Raises `too_complex`."""
    missing = {each: bytearray(b"\1" * 64) for each in frame.ids}
    pixels = max(frame.size[0] * frame.size[1], 1)
    most = max(min(MAX_SCANS, MAX_SCANNED_PIXELS // pixels), 1)
    _mark(missing, bytes(data[first.body : first.end]), frame)
    scans = 1
    for each in walk:
        if each.marker in (SOI, EOI) or each.end > len(data):
            break
        if each.marker == SOS:
            _mark(missing, bytes(data[each.body : each.end]), frame)
            scans += 1
        if scans > most:
            cause = f"it has more than {most} scans, too many for its size"
            raise damaged(ErrorCode.TOO_COMPLEX, "JPEG", frame.size, cause)
    return not any(any(each) for each in missing.values())


def _mark(missing: dict[int, bytearray], scan: bytes, frame: _Frame) -> None:
    """Notes which bits of which coefficients a scan with this header leaves out."""
    count = scan[0] if scan else 0
    if len(scan) < 4 + 2 * count:
        return
    first, last, bits = (0, 63, 0) if not frame.progressive else scan[1 + 2 * count : 4 + 2 * count]
    for each in scan[1 : 1 + 2 * count : 2]:
        if each in missing and first <= last < 64:
            missing[each][first : last + 1] = bytes([bits & 15]) * (last + 1 - first)


def _check_length(data: Data, at: int, frame: _Frame) -> None:
    """Raises `truncated` before a decoder allocates pixels that the file cannot hold."""
    if (len(data) - at) * 8 < frame.fewest_bits:
        cause = f"{len(data):,} bytes cannot hold the picture that its header declares"
        raise damaged(ErrorCode.TRUNCATED, "JPEG", frame.size, cause)


def _has_end(data: Data, at: int) -> bool:
    """Whether there is an end marker. Most files end with it; some cameras append a preview or padding."""
    marker = b"\xff\xd9"
    return (
        data[-2:] == marker or bytes(data[-_TAIL:]).rfind(marker) >= 0 or bytes(data[at:]).rfind(marker) >= 0
    )
