"""WebP: the sides from the first chunk, and whether the file has its declared length."""

from __future__ import annotations

import struct

from clip_preprocess.errors import ErrorCode
from clip_preprocess.headers.base import Data, Header, damaged, header_cut


def read_header(data: Data, _allow_truncated: bool = False) -> Header:
    """The first chunk is VP8X (extended), VP8 (lossy) or VP8L (lossless).

    Raises ItemError: `truncated` if the file is shorter than it declares, `corrupt` for another first chunk.
    """
    if len(data) < 30:
        raise header_cut("WebP")
    chunk = bytes(data[12:16])
    if chunk == b"VP8X":
        size = (1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little"))
    elif chunk == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        size = (width & 0x3FFF, height & 0x3FFF)
    elif chunk == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        size = (1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF))
    else:
        raise damaged(ErrorCode.CORRUPT, "WebP", None, f"its first chunk is {chunk!r}")
    declared = 8 + int.from_bytes(data[4:8], "little")
    if declared > len(data):
        cause = f"the file has {len(data):,} of {declared:,} bytes"
        raise damaged(ErrorCode.TRUNCATED, "WebP", size, cause)
    return Header("WebP", *size)
