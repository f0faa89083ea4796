"""BMP: the sides, and whether the rows of an uncompressed bitmap are in the file."""

from __future__ import annotations

import struct

from clip_preprocess.errors import ErrorCode
from clip_preprocess.headers.base import Data, Header, damaged, header_cut


def read_header(data: Data, _allow_truncated: bool = False) -> Header:
    """Raises ItemError: `truncated` if the file ends within its header or cannot hold its rows."""
    if len(data) < 30:
        raise header_cut("BMP")
    offset, header_size = struct.unpack_from("<II", data, 10)
    if header_size == 12:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
        compression = 0
    elif len(data) < 34:
        raise header_cut("BMP")
    else:
        width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
    size = (width, abs(height))
    if compression == 0 and offset + (width * bits + 31) // 32 * 4 * size[1] > len(data):
        raise damaged(ErrorCode.TRUNCATED, "BMP", size, f"{len(data):,} bytes cannot hold its rows")
    return Header("BMP", *size)
