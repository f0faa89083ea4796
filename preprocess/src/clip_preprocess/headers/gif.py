"""GIF: the sides of the canvas."""

from __future__ import annotations

import struct

from clip_preprocess.headers.base import Data, Header, header_cut


def read_header(data: Data, _allow_truncated: bool = False) -> Header:
    """Raises ItemError: `truncated` if the file ends within its header."""
    if len(data) < 13:
        raise header_cut("GIF")
    return Header("GIF", *struct.unpack_from("<HH", data, 6))
