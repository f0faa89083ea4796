"""Bytes of any kind to a picture, or to an ItemError with a stable code.

What can be refused is refused from the header. Pillow decodes; its classes are called directly, so
that only the formats named here are ever tried, and so that our own `max_pixels` is the one limit
(Pillow's global MAX_IMAGE_PIXELS is neither consulted nor changed, save by its WebP and GIF readers,
whose complaint is turned into `too_many_pixels`).
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable

from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from clip_serving.errors import ErrorCode, ItemError
from clip_serving.formats import Format, Sniffed, read_header
from clip_serving.header import Data, damaged
from clip_serving.settings import DecodeLimits

# Remarks about odd metadata: no concern of pixels, and one line of log for every photo.
warnings.filterwarnings("ignore", module=r"PIL\.")
# The AV1 decoder would start a thread for each core, for each photo.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1

MAX_SIDE = 1_000_000
"""Longest side in pixels that is decoded, whatever max_pixels allows."""

_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_OPENERS: dict[Format, Callable[..., ImageFile.ImageFile]] = {
    Format.JPEG: JpegImagePlugin.JpegImageFile,  # of an MPO this is the first frame
    Format.PNG: PngImagePlugin.PngImageFile,
    Format.WEBP: WebPImagePlugin.WebPImageFile,
    Format.GIF: GifImagePlugin.GifImageFile,
    Format.BMP: BmpImagePlugin.BmpImageFile,
    Format.TIFF: TiffImagePlugin.TiffImageFile,
    Format.AVIF: AvifImagePlugin.AvifImageFile,
}


def _add_heic() -> None:
    try:
        from pillow_heif import HeifImageFile
    except ImportError:
        return
    _OPENERS[Format.HEIC] = HeifImageFile


_add_heic()


def decode(data: Data, limits: DecodeLimits, *, apply_exif_orientation: bool) -> Image.Image:
    """The first (or only) picture in `data`, in its own mode: palette, alpha and CMYK stay as they are.

    Colour profiles are ignored, as open_clip's transform does. Pillow turns a TIFF by its orientation
    tag whatever `apply_exif_orientation` says.

    Raises ItemError with every code but `internal`.
    """
    sniffed = check(data, limits)
    picture = _open(data, sniffed)
    if sniffed.header is None:
        _check_sides(sniffed.format.value, picture.size, limits)
    elif picture.size != sniffed.header.size and sniffed.format is not Format.TIFF:
        raise damaged(ErrorCode.CORRUPT, sniffed.format.value, sniffed.header.size, "its headers disagree")
    _load(picture, sniffed)
    transposition = _transposition(picture) if apply_exif_orientation else None
    return picture if transposition is None else picture.transpose(transposition)


def check(data: Data, limits: DecodeLimits) -> Sniffed:
    """Refuses `data` on its length and header alone, or says what it is. Raises ItemError."""
    if not len(data):
        raise ItemError(ErrorCode.EMPTY, "the image has no bytes")
    if len(data) > limits.max_bytes:
        text = f"the image has {len(data):,} bytes, the limit is {limits.max_bytes:,}"
        raise ItemError(ErrorCode.TOO_MANY_BYTES, text)
    sniffed = read_header(data)
    if sniffed.format not in _OPENERS:
        text = f"{sniffed.format.value} cannot be decoded here: the server lacks pillow-heif"
        raise ItemError(ErrorCode.UNSUPPORTED_FORMAT, text)
    if sniffed.header is not None:
        _check_sides(sniffed.format.value, sniffed.header.size, limits)
    return sniffed


def _check_sides(name: str, size: tuple[int, int], limits: DecodeLimits) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise damaged(ErrorCode.CORRUPT, name, size, "a picture has no such sides")
    if width * height > limits.max_pixels or max(size) > MAX_SIDE:
        cause = f"{width * height:,} pixels, the limit is {limits.max_pixels:,} ({MAX_SIDE:,} a side)"
        raise damaged(ErrorCode.TOO_MANY_PIXELS, name, size, cause)


def _open(data: Data, sniffed: Sniffed) -> ImageFile.ImageFile:
    """The picture with its metadata read and no pixel decoded (AVIF, HEIC: container parsed)."""
    size = sniffed.header.size if sniffed.header else None
    try:
        # BytesIO shares the memory of `bytes` and copies that of a view: 0.1 ms a megabyte.
        return _OPENERS[sniffed.format](io.BytesIO(data))
    except Exception as error:
        raise _translated(error, sniffed.format.value, size, "its header cannot be read") from error


def _load(picture: ImageFile.ImageFile, sniffed: Sniffed) -> None:
    """Decodes the pixels in place."""
    size = picture.size
    try:
        picture.load()
    except Exception as error:
        raise _translated(error, sniffed.format.value, size, "its picture data is damaged") from error


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


def _transposition(picture: Image.Image) -> Image.Transpose | None:
    """What its EXIF orientation asks for. Damaged metadata leaves the picture as it is stored."""
    try:
        orientation = picture.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # whatever the parser met, the pixels are not concerned
        return None
    return _TRANSPOSITIONS.get(orientation) if isinstance(orientation, int) else None
