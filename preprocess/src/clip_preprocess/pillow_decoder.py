"""Bytes of any kind checked against the limits, and decoded by Pillow.

What can be refused is refused from the header. Pillow's classes are called directly, so that only
the formats named here are ever tried, and so that our own `max_pixels` is the one limit (Pillow's
global MAX_IMAGE_PIXELS is neither consulted nor changed, save by its WebP and GIF readers, whose
complaint is turned into `too_many_pixels`). Most JPEGs never come here: clip_preprocess.jpeg_turbo.
"""

from __future__ import annotations

import ctypes
import io
import warnings
from collections.abc import Callable
from pathlib import Path

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

from clip_preprocess import exif
from clip_preprocess.errors import ErrorCode, ItemError
from clip_preprocess.formats import Format, Sniffed, read_header
from clip_preprocess.headers.base import Data, damaged
from clip_preprocess.headers.jpeg import JpegHeader
from clip_preprocess.settings import PreprocessSettings

# Remarks about odd metadata: no concern of pixels, and one line of log for every photo.
warnings.filterwarnings("ignore", module=r"PIL\.")
# The AV1 decoder would start a thread for each core, for each photo.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1

MAX_SIDE = 1_000_000
"""Longest side in pixels that is decoded, whatever max_pixels allows."""
MOST_DECLARED = 4
"""How many times max_pixels a JPEG may declare where it is read at a smaller scale."""

_OPENERS: dict[Format, Callable[..., ImageFile.ImageFile]] = {
    Format.JPEG: JpegImagePlugin.JpegImageFile,  # of an MPO this is the first frame
    Format.PNG: PngImagePlugin.PngImageFile,
    Format.WEBP: WebPImagePlugin.WebPImageFile,
    Format.GIF: GifImagePlugin.GifImageFile,
    Format.BMP: BmpImagePlugin.BmpImageFile,
    Format.TIFF: TiffImagePlugin.TiffImageFile,
    Format.AVIF: AvifImagePlugin.AvifImageFile,
}


def _silence_libtiff() -> None:
    """libtiff writes a line to standard error for each bad row: one broken file would fill a log.

    Pillow raises an error for the file besides; the handlers are libtiff's global ones.
    """
    try:
        mapped = Path("/proc/self/maps").read_text().split()
        for path in {part for part in mapped if "/libtiff" in part}:
            library = ctypes.CDLL(path)
            library.TIFFSetErrorHandler(None)
            library.TIFFSetWarningHandler(None)
    except (OSError, AttributeError):
        return  # its remarks are a nuisance and no more


_silence_libtiff()


def _add_heic() -> None:
    try:
        import pillow_heif
    except ImportError:
        return
    pillow_heif.options.DECODE_THREADS = 1
    _OPENERS[Format.HEIC] = pillow_heif.HeifImageFile


_add_heic()


def decode(
    data: Data, sniffed: Sniffed, settings: PreprocessSettings
) -> tuple[Image.Image, ItemError | None]:
    """The first (or only) picture in `data`, in its own mode: palette, alpha and CMYK stay as they are.

    Colour profiles are ignored, as open_clip's transform does. A TIFF and a HEIC come turned by their
    own orientation whatever `apply_exif_orientation` says. The ItemError beside the picture is None or, with
    `allow_truncated`, says what it lacks.

    Raises ItemError with every code but `internal`.
    """
    picture = _open(data, sniffed)
    if sniffed.header is None:
        check_sides(sniffed.format.value, picture.size, settings.limits.max_pixels)
    elif picture.size != sniffed.header.size:
        raise damaged(ErrorCode.CORRUPT, sniffed.format.value, sniffed.header.size, "its headers disagree")
    notice = _load(picture, sniffed, allow_truncated=settings.allow_truncated)
    orientation = exif.of_picture(picture) if settings.apply_exif_orientation else 1
    if orientation == 1:
        return picture, notice
    return picture.transpose(exif.TRANSPOSITIONS[orientation]), notice


def check(data: Data, settings: PreprocessSettings) -> Sniffed:
    """Refuses `data` on its length and header alone, or says what it is. Raises ItemError.

    Below the quality `exact` a JPEG of one scan is read at a smaller scale; it may declare
    MOST_DECLARED times `max_pixels`, for `max_pixels` is what is decoded.
    """
    limits = settings.limits
    if not len(data):
        raise ItemError(ErrorCode.EMPTY, "the image has no bytes")
    if len(data) > limits.max_bytes:
        text = f"the image has {len(data):,} bytes, the limit is {limits.max_bytes:,}"
        raise ItemError(ErrorCode.TOO_MANY_BYTES, text)
    sniffed = read_header(data, allow_truncated=settings.allow_truncated)
    if sniffed.format not in _OPENERS:
        text = f"{sniffed.format.value} cannot be decoded here: the server lacks pillow-heif"
        raise ItemError(ErrorCode.UNSUPPORTED_FORMAT, text)
    header = sniffed.header
    if header is not None:
        scalable = isinstance(header, JpegHeader) and header.single_scan and settings.quality != "exact"
        check_sides(header.format, header.size, limits.max_pixels * (MOST_DECLARED if scalable else 1))
    return sniffed


def check_sides(name: str, size: tuple[int, int], max_pixels: int) -> None:
    """Raises ItemError: `corrupt` for a side of zero, `too_many_pixels`."""
    width, height = size
    if width < 1 or height < 1:
        raise damaged(ErrorCode.CORRUPT, name, size, "a picture has no such sides")
    if width * height > max_pixels or max(size) > MAX_SIDE:
        cause = f"{width * height:,} pixels, the limit is {max_pixels:,} ({MAX_SIDE:,} a side)"
        raise damaged(ErrorCode.TOO_MANY_PIXELS, name, size, cause)


def _open(data: Data, sniffed: Sniffed) -> ImageFile.ImageFile:
    """The picture with its metadata read and no pixel decoded (AVIF, HEIC: container parsed)."""
    size = sniffed.header.size if sniffed.header else None
    try:
        # BytesIO shares the memory of `bytes` and copies that of a view: 0.1 ms a megabyte.
        return _OPENERS[sniffed.format](io.BytesIO(data))
    except Exception as error:
        raise _translated(error, sniffed.format.value, size, "its header cannot be read") from error


def _load(picture: ImageFile.ImageFile, sniffed: Sniffed, *, allow_truncated: bool) -> ItemError | None:
    """Decodes the pixels in place; returns what is wrong with a picture that is kept all the same."""
    size = picture.size
    try:
        picture.load()
    except Exception as error:
        failure = _translated(error, sniffed.format.value, size, "its picture data is damaged")
        if not (allow_truncated and failure.code is ErrorCode.TRUNCATED and picture.tile):
            raise failure from error
        picture.tile = []  # with nothing left to read, what was decoded is the picture
        return ItemError(failure.code, failure.text, partial=True)
    return None


def _translated(error: Exception, name: str, size: tuple[int, int] | None, otherwise: str) -> ItemError:
    """The decoders' many exceptions as one of ours; their texts never reach the client."""
    if isinstance(error, ItemError):
        return error
    if isinstance(error, MemoryError):
        return damaged(ErrorCode.INTERNAL, name, size, "the server lacks the memory to decode it")
    if isinstance(error, Image.DecompressionBombError):
        return damaged(ErrorCode.TOO_MANY_PIXELS, name, size, "its canvas is too large to decode")
    if isinstance(error, EOFError) or "truncated" in str(error).lower():
        return damaged(ErrorCode.TRUNCATED, name, size, "the picture data ends too early")
    return damaged(ErrorCode.CORRUPT, name, size, otherwise)
