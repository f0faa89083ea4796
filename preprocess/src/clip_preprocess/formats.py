"""The image formats that are decoded: one table of how to recognize, check and open each.

To add a format:

1. Add a `Format` to FORMATS: its name, a test of the file's first 64 bytes, and Pillow's class for it.
2. If the header is easy to parse, add `headers/<format>.py` with a `read_header` and name it in the table:
   oversized and truncated files are then rejected before a decoder sees them. Without it, the sides are
   checked after Pillow has parsed the container, before it decodes a pixel.
3. Add a valid file to `other_formats()` and a broken one to `corrupt_pictures()` in `testing/pictures.py`.
   The unit tests, the comparison with open_clip and the fuzzer take their files from there.

Names and extensions are never looked at: half of all `.heic` files in the wild are JPEG.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from clip_preprocess import unsupported
from clip_preprocess.headers import bmp, gif, iso_media, jpeg, jpeg_segments, png, tiff, webp
from clip_preprocess.headers.base import Data, Header
from clip_preprocess.notices import Notice, NoticeCode

_AVIF_BRANDS = {b"avif", b"avis"}
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"heif", b"mif1", b"msf1"}
_STRAY_BYTES = 16
"""Most bytes before a file's signature: a byte order mark, a line end, the end of another file."""
_TIFF_MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


@dataclass(frozen=True)
class Format:
    """One row of the table."""

    name: str
    """The name that users know; metrics and error texts show it."""
    matches: Callable[[bytes], bool]
    """Whether a file that starts with these 64 bytes is of the format."""
    open: Callable[..., ImageFile.ImageFile] | None
    """Pillow's class for it, called with a binary file; None if its library is not installed."""
    read_header: Callable[[Data, bool], Header] | None = None
    """Called with the file and `allow_truncated`; raises ItemError. None: Pillow reads the header."""
    picture_alone: Callable[[Data], bytes | None] | None = None
    """The file without metadata, for a second try if the decoder rejects it; None if there is none."""
    is_cut: Callable[[Data], bool] | None = None
    """Whether a file that the decoder rejects ends too early."""
    lacks_rows: Callable[[Data, Image.Image], bool] | None = None
    """Whether rows are missing from a picture that the decoder called complete."""


def _brands(start: bytes) -> set[bytes]:
    """The brands that an ISO media file (AVIF, HEIC, MP4) lists; empty for any other file."""
    if start[4:8] != b"ftyp":
        return set()
    size = min(int.from_bytes(start[:4], "big"), len(start))
    return {start[at : at + 4] for at in range(8, size - 3, 4) if at != 12}


def _heic_plugin() -> Any:
    """pillow-heif's class, from the `heic` extra."""
    try:
        import pillow_heif
    except ImportError:
        return None
    pillow_heif.options.DECODE_THREADS = 1
    return pillow_heif.HeifImageFile


# libavif would start a thread per core for each photo.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1

JPEG = Format(
    "JPEG",
    jpeg_segments.matches,
    JpegImagePlugin.JpegImageFile,  # of an MPO file, this is the first picture
    jpeg.read_header,
)
FORMATS = (
    JPEG,
    Format(
        "PNG",
        lambda start: start.startswith(png.SIGNATURE),
        PngImagePlugin.PngImageFile,
        png.read_header,
        png.picture_alone,
        lacks_rows=png.lacks_rows,
    ),
    Format(
        "WebP",
        lambda start: start[:4] == b"RIFF" and start[8:12] == b"WEBP",
        WebPImagePlugin.WebPImageFile,
        webp.read_header,
        webp.picture_alone,
    ),
    Format(
        "GIF",
        lambda start: start[:6] in (b"GIF87a", b"GIF89a"),
        GifImagePlugin.GifImageFile,
        gif.read_header,
    ),
    Format(
        "BMP",
        bmp.matches,
        BmpImagePlugin.BmpImageFile,
        bmp.read_header,
        is_cut=bmp.is_cut,
    ),
    Format("TIFF", lambda start: start[:4] in _TIFF_MAGICS, TiffImagePlugin.TiffImageFile, tiff.read_header),
    # AVIF comes before HEIC: both may list the neutral brand `mif1`.
    Format(
        "AVIF",
        lambda start: bool(_brands(start) & _AVIF_BRANDS),
        AvifImagePlugin.AvifImageFile,
        is_cut=iso_media.is_cut,
    ),
    Format(
        "HEIC", lambda start: bool(_brands(start) & _HEIC_BRANDS), _heic_plugin(), is_cut=iso_media.is_cut
    ),
)


def sniff(data: Data) -> Format | None:
    """The format of `data` by its first bytes; None if it is not in the table."""
    return _find(data)[0]


def without_stray_start(data: Data) -> tuple[Data, tuple[Notice, ...]]:
    """`data` from where its format begins, and a notice if that is not its first byte."""
    kind, start = _find(data)
    if kind is None or not start:
        return data, ()
    text = f"{kind.name}: {start} stray bytes come before the file's first"
    return memoryview(data)[start:], (Notice(NoticeCode.STRAY_BYTES, text),)


def _find(data: Data) -> tuple[Format | None, int]:
    """The format of `data`, and where it begins; a named type that is not decoded has no format."""
    head = bytes(data[: _STRAY_BYTES + 64])
    if found := _at(head, 0):
        return found, 0
    if unsupported.name_of(data) in ("", "text"):
        for start in range(1, _STRAY_BYTES + 1):
            if found := _at(head, start):
                return found, start
    return None, 0


def _at(head: bytes, start: int) -> Format | None:
    part = head[start : start + 64]
    return next((each for each in FORMATS if each.matches(part)), None)
