"""PNG: the sides, whether the chunks are complete, and whether the data can hold the picture."""

from __future__ import annotations

import struct
import zlib

from clip_preprocess.errors import ErrorCode
from clip_preprocess.headers.base import Data, Header, damaged, header_cut

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Samples per pixel, by color type."""
_DEFLATE_MOST = 1032
"""Deflate's highest compression ratio."""
_CHECKED = {b"PLTE", b"tRNS", b"IDAT"}
"""Chunks that hold pixels: their checksums are verified here, because the decoder does not."""


def read_header(data: Data, allow_truncated: bool = False) -> Header:
    """Walks all chunks; costs a checksum of the file, a few percent of decoding it.

    Raises ItemError: `truncated` (unless allowed) if a chunk or the end chunk is missing, or if the
    compressed data is too short for the declared rows; `corrupt` for a wrong checksum or header.
    """
    width, height, row_bytes = _read_ihdr(data)
    size = (width, height)
    at, compressed = 8, 0
    while True:
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        if allow_truncated and end > len(data):
            return Header("PNG", width, height)
        if at + 12 > len(data):
            raise damaged(ErrorCode.TRUNCATED, "PNG", size, "the file ends before its end chunk")
        kind = bytes(data[at + 4 : at + 8])
        if end > len(data):
            cause = f"the file ends within its {_name(kind)} chunk"
            raise damaged(ErrorCode.TRUNCATED, "PNG", size, cause)
        if kind in _CHECKED and zlib.crc32(data[at + 4 : end - 4]) != int.from_bytes(
            data[end - 4 : end], "big"
        ):
            cause = f"the checksum of its {_name(kind)} chunk is wrong"
            raise damaged(ErrorCode.CORRUPT, "PNG", size, cause)
        if kind == b"IDAT":
            compressed += end - at - 12
        if kind == b"IEND":
            break
        at = end
    if (row_bytes + 1) * height > compressed * _DEFLATE_MOST:
        cause = f"{compressed:,} bytes of picture data cannot hold its rows"
        raise damaged(ErrorCode.TRUNCATED, "PNG", size, cause)
    return Header("PNG", width, height)


def _read_ihdr(data: Data) -> tuple[int, int, int]:
    """Width, height, and the bytes of one row before compression (without the filter byte)."""
    if len(data) < 33:
        raise header_cut("PNG")
    length, kind, width, height, bits, color = struct.unpack_from(">I4sIIBB", data, 8)
    if kind != b"IHDR" or length != 13:
        raise damaged(ErrorCode.CORRUPT, "PNG", None, "its first chunk is not the header")
    if zlib.crc32(data[12:29]) != int.from_bytes(data[29:33], "big"):
        raise damaged(ErrorCode.CORRUPT, "PNG", (width, height), "the checksum of its header is wrong")
    if color not in _CHANNELS or bits not in (1, 2, 4, 8, 16):
        cause = f"color type {color} with {bits} bits does not exist"
        raise damaged(ErrorCode.CORRUPT, "PNG", (width, height), cause)
    return width, height, (width * bits * _CHANNELS[color] + 7) // 8


def _name(kind: bytes) -> str:
    return kind.decode("ascii") if kind.isalpha() else "next"
