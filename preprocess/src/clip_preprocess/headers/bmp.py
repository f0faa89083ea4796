"""BMP: the sides, and whether the rows of a bitmap without compression are in the file."""

from __future__ import annotations

import struct

from clip_preprocess.errors import ErrorCode
from clip_preprocess.headers.base import Data, Header, damaged, header_cut
from clip_preprocess.notices import Notice, NoticeCode

MAX_RUN_LENGTH_PIXELS = 16_000_000
"""Pillow decodes run-length coding in Python, and a few bytes can stand for any number of pixels."""
_HEADER_SIZES = {12, 16, 40, 52, 56, 64, 108, 124}
_CORE = {12, 16}
"""OS/2 headers. Those of 16 bytes leave out all fields after the sides, and Pillow cannot read them."""
_RAW, _RLE8, _RLE4, _BIT_FIELDS = range(4)
_END = b"\0\1"
"""Of run-length coding."""
_BITS = {1, 4, 8, 16, 24, 32}


def matches(start: bytes) -> bool:
    """By the length of its second header, as the reserved bytes are not always zero."""
    return start[:2] == b"BM" and int.from_bytes(start[14:18], "little") in _HEADER_SIZES


def read_header(data: Data, _allow_truncated: bool = False) -> Header:
    """Raises ItemError: `truncated` if the file ends within its header or cannot hold its rows,
    `unsupported_format` for what Pillow cannot decode, `too_complex` for MAX_RUN_LENGTH_PIXELS.

    Reserved bytes that are not zero are a notice, as is a last row without its padding.
    """
    if len(data) < 30:
        raise header_cut("BMP")
    offset, header_size = struct.unpack_from("<II", data, 10)
    if header_size in _CORE:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
        compression = _RAW
    elif len(data) < 38:
        raise header_cut("BMP")
    else:
        width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
    size = (width, abs(height))
    _check_supported(size, header_size, bits, compression)
    notices = []
    if any(data[6:10]):
        notices.append(Notice(NoticeCode.STRAY_BYTES, "BMP: its reserved bytes are not zero"))
    repaired = None
    if compression in (_RAW, _BIT_FIELDS):
        missing = _missing_bytes(len(data), offset, size, bits)
        if missing:
            repaired = bytes(data) + bytes(missing)
            notices.append(Notice(NoticeCode.MISSING_END, "BMP: the padding of its last row is missing"))
    elif is_cut(data):
        notices.append(Notice(NoticeCode.MISSING_END, "BMP: the end of its run-length coding is missing"))
    return Header("BMP", *size, notices=tuple(notices), repaired=repaired)


def is_cut(data: Data) -> bool:
    """Whether a run-length coded bitmap has no end marker. Its decoder finds out whether rows are missing."""
    offset, length = struct.unpack_from("<I", data, 10)[0], struct.unpack_from("<I", data, 34)[0]
    end = offset + length if 0 < length <= len(data) - offset else len(data)
    return bytes(data[end - 2 : end]) != _END and not bytes(data[-64:]).rstrip(b"\0").endswith(_END)


def _check_supported(size: tuple[int, int], header_size: int, bits: int, compression: int) -> None:
    cause = ""
    if header_size == 16:
        cause = "OS/2 headers of 16 bytes cannot be decoded"
    elif compression > _BIT_FIELDS:
        kind = {4: "JPEG", 5: "PNG", 6: "bit fields with alpha"}.get(compression, f"number {compression}")
        cause = f"compression {kind} cannot be decoded"
    elif bits not in _BITS:
        cause = f"{bits} bits per pixel cannot be decoded"
    if cause:
        raise damaged(ErrorCode.UNSUPPORTED_FORMAT, "BMP", size, cause)
    if compression in (_RLE8, _RLE4) and size[0] * size[1] > MAX_RUN_LENGTH_PIXELS:
        cause = f"run-length coding of more than {MAX_RUN_LENGTH_PIXELS:,} pixels"
        raise damaged(ErrorCode.TOO_COMPLEX, "BMP", size, cause)


def _missing_bytes(length: int, offset: int, size: tuple[int, int], bits: int) -> int:
    """Padding that the last row lacks, in bytes. Raises ItemError: `truncated` if pixels are missing."""
    stride = (size[0] * bits + 31) // 32 * 4
    whole = offset + stride * size[1]
    if whole - stride + (size[0] * bits + 7) // 8 > length:
        raise damaged(ErrorCode.TRUNCATED, "BMP", size, f"{length:,} bytes cannot hold its rows")
    return max(whole - length, 0)
