"""PNG: the sides, whether the chunks are complete, and whether the data can hold the picture."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from PIL import Image

from clip_preprocess.errors import ErrorCode
from clip_preprocess.headers.base import Data, Header, damaged, header_cut
from clip_preprocess.notices import Notice, NoticeCode

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_CHUNKS = 65_536
"""A file of 32 MB in chunks of 512 bytes; common encoders write 4 to 64 KB into each."""
_PALETTE = 3
"""The color type whose pixels are numbers of the palette's colors."""
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Samples per pixel, by color type."""
_DEFLATE_MOST = 1032
"""Deflate's highest compression ratio."""
_PIXELS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT"}
"""Chunks that hold pixels: a wrong checksum is an error."""
_ANIMATION = {b"acTL", b"fcTL", b"fdAT"}
_END = struct.pack(">I", 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND"))


@dataclass
class _Chunks:
    """What the walk over a file's chunks found. A span is a chunk with its length and checksum."""

    spans: list[tuple[bytes, int, int]] = field(default_factory=list)
    """(kind, begin, end) of sound chunks, without the end chunk."""
    compressed: int = 0
    """Bytes of picture data, including a part of a chunk that the file ends in."""
    damaged: list[str] = field(default_factory=list)
    """Kinds of the chunks that are left out."""
    part: bytes = b""
    """Picture data of the chunk that the file ends in."""
    ended: bool = False
    """The end chunk was found."""


def read_header(data: Data, allow_truncated: bool = False) -> Header:
    """Walks all chunks; costs a checksum of the file, a few percent of decoding it.

    A missing end chunk and damage to chunks without pixels are notices, and the decoder gets a repaired copy;
    it finds out whether rows are missing. Raises ItemError: `truncated` (unless allowed) if there is no
    picture data or too little for the declared rows; `corrupt` for a wrong checksum or header;
    `unsupported_format` for Apple's CgBI variant; `too_complex` for more than MAX_CHUNKS.
    """
    width, height, row_bytes = _read_ihdr(data)
    size = (width, height)
    chunks = _walk(data, size)
    if not chunks.ended and not chunks.compressed and not allow_truncated:
        raise damaged(ErrorCode.TRUNCATED, "PNG", size, "the file ends before its picture data")
    if (row_bytes + 1) * height > chunks.compressed * _DEFLATE_MOST and not allow_truncated:
        cause = f"{chunks.compressed:,} bytes of picture data cannot hold its rows"
        raise damaged(ErrorCode.TRUNCATED, "PNG", size, cause)
    if data[25] == _PALETTE and not any(kind == b"PLTE" for kind, _, _ in chunks.spans):
        raise damaged(ErrorCode.CORRUPT, "PNG", size, "its palette is missing")
    notices = []
    if not chunks.ended:
        notices.append(Notice(NoticeCode.MISSING_END, "PNG: the end chunk is missing"))
    if chunks.damaged:
        names = ", ".join(dict.fromkeys(chunks.damaged))
        notices.append(Notice(NoticeCode.DAMAGED_METADATA, f"PNG: damaged chunks were left out: {names}"))
    repaired = _joined(data, chunks) if notices else None
    return Header("PNG", width, height, notices=tuple(notices), repaired=repaired)


def picture_alone(data: Data) -> bytes:
    """The file with its pixels and its EXIF data and nothing else."""
    width, height, _ = _read_ihdr(data)
    chunks = _walk(data, (width, height))
    chunks.spans = [span for span in chunks.spans if span[0] in _PIXELS or span[0] == b"eXIf"]
    return _joined(data, chunks)


def lacks_rows(data: Data, picture: Image.Image) -> bool:
    """Whether the compressed stream ends before the last row, which Pillow leaves black without an error.

    Costs a second decompression, but only if the last row is black or the rows are interlaced.
    """
    last = (0, picture.height - 1, picture.width, picture.height)
    if not data[28] and picture.crop(last).getbbox(alpha_only=False) is not None:
        return False
    _, height, _ = _read_ihdr(data)
    stream = zlib.decompressobj()
    needed = _bytes_of_rows(data)
    try:
        for part in _picture_data(data, height):
            while part and needed > 0:
                needed -= len(stream.decompress(part, 1 << 20))
                part = stream.unconsumed_tail
        return needed > len(stream.flush())
    except zlib.error:  # the decoder found all that it needed before
        return False


def _bytes_of_rows(data: Data) -> int:
    """Length in bytes of all rows with their filter bytes, before compression."""
    width, height, bits, color = struct.unpack_from(">IIBB", data, 16)
    passes = [(0, 0, 1, 1)]
    if data[28]:
        passes = [
            (0, 0, 8, 8),
            (4, 0, 8, 8),
            (0, 4, 4, 8),
            (2, 0, 4, 4),
            (0, 2, 2, 4),
            (1, 0, 2, 2),
            (0, 1, 1, 2),
        ]
    total = 0
    for left, top, across, down in passes:
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        if columns > 0 and rows > 0:
            total += rows * (1 + (columns * bits * _CHANNELS[color] + 7) // 8)
    return total


def _picture_data(data: Data, height: int) -> Iterator[Data]:
    chunks = _walk(data, (0, height))
    for kind, begin, end in chunks.spans:
        if kind == b"IDAT":
            yield data[begin + 8 : end - 4]
    yield chunks.part


def _walk(data: Data, size: tuple[int, int]) -> _Chunks:
    """Raises ItemError: `corrupt` for a wrong checksum of a chunk that holds pixels, `too_complex`."""
    found = _Chunks()
    at = 8
    while at + 8 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        kind = bytes(data[at + 4 : at + 8])
        if kind == b"IEND":
            found.ended = True
            break
        if not kind.isalpha():
            break
        if end > len(data):
            found.part = bytes(data[at + 8 : end - 4]) if kind == b"IDAT" else b""
            found.compressed += len(found.part)
            break
        if zlib.crc32(data[at + 4 : end - 4]) == int.from_bytes(data[end - 4 : end], "big"):
            found.spans.append((kind, at, end))
        elif kind in _PIXELS or kind[:1].isupper():
            cause = f"the checksum of its {kind.decode()} chunk is wrong"
            raise damaged(ErrorCode.CORRUPT, "PNG", size, cause)
        else:
            found.damaged.append(kind.decode())
        if kind == b"IDAT":
            found.compressed += end - at - 12
        if len(found.spans) + len(found.damaged) > MAX_CHUNKS:
            raise damaged(ErrorCode.TOO_COMPLEX, "PNG", size, f"it has more than {MAX_CHUNKS:,} chunks")
        at = end
    return found


def _joined(data: Data, chunks: _Chunks) -> bytes:
    """A complete file of the sound chunks. Without animation, if a part of that is damaged."""
    left_out = _ANIMATION if _ANIMATION & {kind.encode() for kind in chunks.damaged} else set()
    parts = [bytes(data[begin:end]) for kind, begin, end in chunks.spans if kind not in left_out]
    if chunks.part:
        body = b"IDAT" + chunks.part
        parts.append(struct.pack(">I", len(chunks.part)) + body + struct.pack(">I", zlib.crc32(body)))
    return b"".join((SIGNATURE, *parts, _END))


def _read_ihdr(data: Data) -> tuple[int, int, int]:
    """Width, height, and the bytes of one row before compression (without the filter byte)."""
    if len(data) < 33:
        raise header_cut("PNG")
    length, kind, width, height, bits, color = struct.unpack_from(">I4sIIBB", data, 8)
    if kind == b"CgBI":
        raise damaged(ErrorCode.UNSUPPORTED_FORMAT, "PNG", None, "Apple's CgBI variant cannot be decoded")
    if kind != b"IHDR" or length != 13:
        raise damaged(ErrorCode.CORRUPT, "PNG", None, "its first chunk is not the header")
    if zlib.crc32(data[12:29]) != int.from_bytes(data[29:33], "big"):
        raise damaged(ErrorCode.CORRUPT, "PNG", (width, height), "the checksum of its header is wrong")
    if color not in _CHANNELS or bits not in (1, 2, 4, 8, 16):
        cause = f"color type {color} with {bits} bits does not exist"
        raise damaged(ErrorCode.CORRUPT, "PNG", (width, height), cause)
    return width, height, (width * bits * _CHANNELS[color] + 7) // 8
