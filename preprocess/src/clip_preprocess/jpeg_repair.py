"""A JPEG without the bytes that do not concern its pixels, for a decoder that stops at every one of them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

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
_END = b"\xff\xd9"


@dataclass
class Parts:
    """What a decoder needs of a file: tables, frame and scans, without stray bytes and metadata."""

    heads: list[bytes] = field(default_factory=list)
    """The segments up to the header of each scan."""
    scans: list[bytes] = field(default_factory=list)
    """The entropy-coded data of each scan, with stray bytes behind it: they look the same."""
    stray: bool = False
    """Whether stray bytes were left out."""
    ended: bool = False
    """Whether the end marker is there."""

    def file(self) -> bytes:
        """A JPEG with an end marker."""
        scans = zip(self.heads, self.scans, strict=True)
        return b"".join((b"\xff\xd8", *(part for scan in scans for part in scan), _END))


def parts(data: Data, header: JpegHeader) -> Parts:
    """The parts of the first picture in `data`, whose header was read."""
    found = Parts()
    head: list[bytes] = []
    for each in segments(data, 2):
        found.stray |= each.stray
        if each.marker == SOI and found.scans:  # the next picture
            break
        if each.marker == EOI and found.scans:
            found.ended = True
            break
        if each.end > len(data):
            break
        found.stray |= each.marker in (SOI, EOI)
        head.append(_segment(data, each, header))
        if each.marker == SOS:
            found.heads.append(b"".join(head))
            found.scans.append(bytes(data[each.end : end_of_scan(data, each.end)]))
            head = []
    return found


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


def trimmed(found: Parts) -> Parts | None:
    """Without the zeros that some cameras write before the end marker; None if there are none."""
    last = found.scans[-1].rstrip(b"\0") + b"\0"  # the second byte of FF 00, or one too many: no damage
    if len(last) >= len(found.scans[-1]):
        return None
    return replace(found, scans=[*found.scans[:-1], last], stray=True)
