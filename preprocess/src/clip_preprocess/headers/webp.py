"""WebP: the sides, and whether the chunks of the picture are complete."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from clip_preprocess.errors import ErrorCode
from clip_preprocess.headers.base import Data, Header, damaged, header_cut
from clip_preprocess.notices import Notice, NoticeCode

MAX_CHUNKS = 65_536
"""An animation of 18 minutes at 60 frames a second."""
_PICTURE = {b"VP8 ", b"VP8L"}
_FRAMES = _PICTURE | {b"ANMF"}
_ALPHA, _EXIF = 0x10, 0x08
"""Flags of a VP8X chunk."""


@dataclass(frozen=True)
class _Chunk:
    kind: bytes
    content: Data


def read_header(data: Data, _allow_truncated: bool = False) -> Header:
    """Walks all chunks. A picture is in VP8 (lossy), VP8L (lossless) or ANMF (frame) chunks.

    A wrong length of the file, a lost last byte of padding, and damage after the picture are notices; the
    decoder gets a repaired copy. Raises ItemError: `truncated` if the picture is incomplete, `corrupt` if
    there is none, `too_complex` for more than MAX_CHUNKS.
    """
    if len(data) < 30:
        raise header_cut("WebP")
    chunks, end = _walk(data)
    declared = 8 + int.from_bytes(data[4:8], "little")
    first = _Chunk(bytes(data[12:16]), memoryview(data)[20:])
    size = _size([first, *chunks])
    if not any(chunk.kind in _FRAMES for chunk in chunks):
        if size is None and declared <= len(data):
            raise damaged(ErrorCode.CORRUPT, "WebP", None, f"its first chunk is {first.kind!r}")
        cause = f"the file has {len(data):,} of {declared:,} bytes"
        raise damaged(ErrorCode.TRUNCATED, "WebP", size, cause)
    if size is None:
        raise damaged(ErrorCode.CORRUPT, "WebP", None, "the sides of its picture are missing")
    if first.kind not in _PICTURE | {b"VP8X"}:
        notice = Notice(NoticeCode.STRAY_BYTES, f"WebP: its first chunk is {first.kind!r}")
        return Header("WebP", *size, notices=(notice,), repaired=picture_alone(data))
    notices = []
    if end > len(data):
        notices.append(Notice(NoticeCode.MISSING_END, "WebP: the padding of its last chunk is missing"))
    elif declared > len(data):
        notices.append(Notice(NoticeCode.MISSING_END, "WebP: the file is shorter than it declares"))
    elif declared < end:
        notices.append(Notice(NoticeCode.DAMAGED_METADATA, "WebP: the file is longer than it declares"))
    return Header("WebP", *size, notices=tuple(notices), repaired=_joined(chunks) if notices else None)


def picture_alone(data: Data) -> bytes | None:
    """The file with its picture and EXIF data and nothing else; None for an animation."""
    chunks, _ = _walk(data)
    picture = next((chunk for chunk in chunks if chunk.kind in _PICTURE), None)
    size = _size([picture]) if picture else None
    if picture is None or size is None or 0 in size:
        return None
    alpha = [chunk for chunk in chunks if chunk.kind == b"ALPH"][:1] if picture.kind == b"VP8 " else []
    exif = [chunk for chunk in chunks if chunk.kind == b"EXIF"][:1]
    has_alpha = bool(alpha) or (picture.kind == b"VP8L" and bool(picture.content[4] & 0x10))
    flags = _ALPHA * has_alpha | _EXIF * bool(exif)
    width, height = size
    sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    extended = _Chunk(b"VP8X", struct.pack("<I", flags) + sides)
    return _joined([extended, *alpha, picture, *exif])


def _size(chunks: list[_Chunk]) -> tuple[int, int] | None:
    """Width and height in the first chunk that has them."""
    for kind, content in ((chunk.kind, chunk.content) for chunk in chunks):
        if kind == b"VP8X" and len(content) >= 10:
            return 1 + int.from_bytes(content[4:7], "little"), 1 + int.from_bytes(content[7:10], "little")
        if kind == b"VP8 " and len(content) >= 10:
            width, height = struct.unpack_from("<HH", content, 6)
            return width & 0x3FFF, height & 0x3FFF
        if kind == b"VP8L" and len(content) >= 5:
            bits = int.from_bytes(content[1:5], "little")
            return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    return None


def _walk(data: Data) -> tuple[list[_Chunk], int]:
    """The complete chunks, and where the last one ends. Junk after them is left out."""
    chunks: list[_Chunk] = []
    at = 12
    view = memoryview(data)
    while at + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, at)
        if at + 8 + length > len(data) or (chunks and not kind.strip().isalnum()):
            break
        chunks.append(_Chunk(kind, view[at + 8 : at + 8 + length]))
        at += 8 + length + length % 2
        if len(chunks) > MAX_CHUNKS:
            raise damaged(ErrorCode.TOO_COMPLEX, "WebP", None, f"it has more than {MAX_CHUNKS:,} chunks")
    return chunks, at


def _joined(chunks: list[_Chunk]) -> bytes:
    parts = []
    for chunk in chunks:
        padding = b"\0" * (len(chunk.content) % 2)
        parts.append(chunk.kind + struct.pack("<I", len(chunk.content)) + bytes(chunk.content) + padding)
    content = b"WEBP" + b"".join(parts)
    return b"RIFF" + struct.pack("<I", len(content)) + content
