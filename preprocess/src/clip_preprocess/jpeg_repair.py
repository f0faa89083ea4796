"""A JPEG without the bytes that do not concern its pixels, for a decoder that stops at every one of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from clip_preprocess.headers.base import Data
from clip_preprocess.headers.jpeg import JpegHeader
from clip_preprocess.headers.jpeg_segments import (
    APP0,
    APP14,
    DHT,
    DQT,
    DRI,
    EOI,
    FRAMES,
    SOI,
    SOS,
    Segment,
    end_of_scan,
    segments,
)

_TABLES = {DQT, DHT, DRI, SOS, *FRAMES}
_START, _END = b"\xff\xd8", b"\xff\xd9"


@dataclass(frozen=True)
class Scan:
    """One scan, the tables that were defined before it, and what may be stray bytes."""

    tables: bytes
    """The segments since the last scan: tables, and the frame."""
    header: bytes = b""
    """The scan's own segment."""
    data: bytes = b""
    """Entropy-coded data, with stray bytes behind it: they look the same."""

    @property
    def components(self) -> bytes:
        """The numbers of its components."""
        return self.header[5 : 5 + 2 * self.header[4] : 2]

    @property
    def band(self) -> tuple[int, int]:
        """Its first and last coefficient."""
        at = 5 + 2 * self.header[4]
        return self.header[at], self.header[at + 1]

    @property
    def refines(self) -> bool:
        """Whether it adds a bit to coefficients of earlier scans, other than DC."""
        return self.band[0] > 0 and self.header[-1] >= 16

    @property
    def counts_runs(self) -> bool:
        """Whether its last code may be the length of a run, as in the first scan of a band without DC."""
        return self.band[0] > 0 and self.header[-1] < 16


@dataclass(frozen=True)
class Parts:
    """What a decoder needs of a file: tables, frame and scans, without stray bytes and metadata."""

    scans: tuple[Scan, ...]
    stray: bool
    """Whether stray bytes were left out."""
    ended: bool
    """Whether the end marker is there."""

    def file(self) -> bytes:
        """A JPEG with an end marker."""
        return file_of(self.scans)

    def file_as_ended(self) -> bytes:
        """Without an end marker if the file had none: to Pillow it is proof that nothing is missing."""
        return self.file() if self.ended else self.file()[: -len(_END)]


def file_of(scans: Iterable[Scan]) -> bytes:
    """A JPEG of these scans, with an end marker."""
    return b"".join(
        (_START, *(part for scan in scans for part in (scan.tables, scan.header, scan.data)), _END)
    )


def parts(data: Data, header: JpegHeader) -> Parts:
    """The parts of the first picture in `data`, whose header was read."""
    scans: list[Scan] = []
    tables: list[bytes] = []
    stray = ended = False
    for each in segments(data, 2):
        stray |= each.stray
        ended = each.marker == EOI and bool(scans)
        if ended or each.end > len(data) or (each.marker == SOI and scans):  # or the next picture
            break
        stray |= each.marker in (SOI, EOI)
        segment = _segment(data, each, header)
        if each.marker == SOS:
            coded = bytes(data[each.end : end_of_scan(data, each.end)])
            scans.append(Scan(b"".join(tables), segment, coded))
            tables = []
        else:
            tables.append(segment)
    return Parts(tuple(scans), stray, ended)


def _segment(data: Data, segment: Segment, header: JpegHeader) -> bytes:
    """The segment as the decoder needs it; empty if it does not."""
    body = bytes(data[segment.body : segment.end])
    if segment.marker == APP0 and body.startswith(b"JFIF\0") and len(body) >= 14:
        body = b"JFIF\0\1\1\0\0\1\0\1\0\0"
    elif segment.marker == APP14 and body.startswith(b"Adobe") and len(body) >= 12:
        # Decoders take unknown color transforms for the usual ones.
        transform = body[11] if body[11] in (0, 1, 2) else header.components // 2
        body = body[:11] + bytes([transform])
    elif segment.marker in FRAMES:
        body = body[:1] + header.height.to_bytes(2, "big") + body[3:]
    elif segment.marker == SOS and not header.progressive:
        count = body[0]
        body = body[: 1 + 2 * count] + b"\0\x3f\0"  # fields that only progressive scans use
    elif segment.marker not in _TABLES:
        return b""
    return bytes([0xFF, segment.marker]) + (len(body) + 2).to_bytes(2, "big") + body
