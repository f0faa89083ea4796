"""What a file says of itself: its format by content, and its sides from the header.

No pixel is decoded and nothing is allocated here: a photo is refused on what this module finds.
Names and extensions are never looked at (half of all `.heic` files in the wild are JPEG).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import Enum

from clip_preprocess.errors import ErrorCode, ItemError
from clip_preprocess.headers import jpeg, png
from clip_preprocess.headers.base import Data, Header, damaged


class Format(str, Enum):
    """Formats that can be told apart; the value is what people call them."""

    JPEG = "JPEG"
    PNG = "PNG"
    WEBP = "WebP"
    GIF = "GIF"
    BMP = "BMP"
    TIFF = "TIFF"
    AVIF = "AVIF"
    HEIC = "HEIC"


@dataclass(frozen=True)
class Sniffed:
    """A format, and its header where this module reads it (TIFF, AVIF and HEIC: the decoder does)."""

    format: Format
    header: Header | None


_AVIF_BRANDS = {b"avif", b"avis"}
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"heif", b"mif1", b"msf1"}
_TIFF_MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def sniff(data: Data) -> Format | None:
    """The format that the first bytes of `data` announce; None where it is none that we know."""
    start = bytes(data[:64])
    if start.startswith(b"\xff\xd8\xff"):
        return Format.JPEG
    if start.startswith(png.SIGNATURE):
        return Format.PNG
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return Format.WEBP
    if start[:6] in (b"GIF87a", b"GIF89a"):
        return Format.GIF
    if start[:2] == b"BM" and start[6:10] == b"\0\0\0\0":
        return Format.BMP
    if start[:4] in _TIFF_MAGICS:
        return Format.TIFF
    if start[4:8] == b"ftyp":
        return _sniff_iso_media(start)
    return None


def format_name(data: Data) -> str:
    """What people call the format of `data`; empty where it is none that we know."""
    found = sniff(data)
    return found.value if found else ""


def _sniff_iso_media(start: bytes) -> Format | None:
    """AVIF before HEIC: both may list the neutral brand `mif1`."""
    size = min(int.from_bytes(start[:4], "big"), len(start))
    brands = {start[at : at + 4] for at in range(8, size - 3, 4) if at != 12}
    if brands & _AVIF_BRANDS:
        return Format.AVIF
    return Format.HEIC if brands & _HEIC_BRANDS else None


def read_header(data: Data, *, allow_truncated: bool = False) -> Sniffed:
    """The format and, where it can be had without the decoder, the header of `data`.

    Raises ItemError: `unsupported_format`; `truncated` where the file ends within its header or
    (unless `allow_truncated`: JPEG and PNG) cannot hold the pixels that it declares; `corrupt` where
    the header contradicts itself; `too_complex` as clip_preprocess.headers.jpeg says.
    """
    kind = sniff(data)
    if kind is None:
        raise ItemError(
            ErrorCode.UNSUPPORTED_FORMAT,
            f"the content ({len(data):,} bytes) is none of {', '.join(f.value for f in Format)}",
        )
    if kind is Format.JPEG:
        return Sniffed(kind, jpeg.read_header(data, allow_truncated=allow_truncated))
    if kind is Format.PNG:
        return Sniffed(kind, png.read_header(data, allow_truncated=allow_truncated))
    reader = {Format.WEBP: _webp, Format.GIF: _gif, Format.BMP: _bmp}.get(kind)
    return Sniffed(kind, reader(data) if reader else None)


def _gif(data: Data) -> Header:
    if len(data) < 13:
        raise damaged(ErrorCode.TRUNCATED, "GIF", None, "the file ends within its header")
    width, height = struct.unpack_from("<HH", data, 6)
    return Header("GIF", width, height)


def _bmp(data: Data) -> Header:
    """The fixed part of a bitmap's header; the rows of an uncompressed one must be in the file."""
    if len(data) < 30:
        raise damaged(ErrorCode.TRUNCATED, "BMP", None, "the file ends within its header")
    offset, header_size = struct.unpack_from("<II", data, 10)
    if header_size == 12:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
        compression = 0
    elif len(data) < 34:
        raise damaged(ErrorCode.TRUNCATED, "BMP", None, "the file ends within its header")
    else:
        width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
    size = (width, abs(height))
    if compression == 0 and offset + (width * bits + 31) // 32 * 4 * size[1] > len(data):
        raise damaged(ErrorCode.TRUNCATED, "BMP", size, f"{len(data):,} bytes cannot hold its rows")
    return Header("BMP", *size)


def _webp(data: Data) -> Header:
    """Sides from the first chunk: VP8X (extended), VP8 (lossy) or VP8L (lossless)."""
    if len(data) < 30:
        raise damaged(ErrorCode.TRUNCATED, "WebP", None, "the file ends within its header")
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
