"""Decoding by Pillow: every format but most JPEGs (clip_preprocess.jpeg says which).

The plugin of the sniffed format is called directly, so no other format is ever tried, and our own
`max_pixels` is the one limit. Pillow's global MAX_IMAGE_PIXELS is neither read nor changed; its WebP
and GIF plugins check it themselves, which becomes `too_many_pixels`.
"""

from __future__ import annotations

import ctypes
import io
import warnings
from dataclasses import replace
from pathlib import Path

from PIL import Image, ImageFile

from clip_preprocess import animation, background, exif, samples
from clip_preprocess.decoded import Decoded
from clip_preprocess.errors import ErrorCode, ItemError, forget
from clip_preprocess.formats import Format
from clip_preprocess.headers.base import Data, Header, damaged
from clip_preprocess.limits import check_sides
from clip_preprocess.notices import Notice, NoticeCode
from clip_preprocess.settings import PreprocessSettings

# Warnings about odd metadata do not concern the pixels, and would be a log line per photo.
warnings.filterwarnings("ignore", module=r"PIL\.")

# Parts of Pillow's texts about files that may be sound.
_UNSUPPORTED = ("unknown pixel mode", "unknown data organization", "Unsupported BMP", "not yet supported")
_DAMAGE = (ErrorCode.CORRUPT, ErrorCode.TRUNCATED)


def _silence_libtiff() -> None:
    """Stops libtiff from writing a line to standard error for each bad row of a broken file.

    Pillow still raises an error for the file. The handlers are global to libtiff.
    """
    try:
        mapped = Path("/proc/self/maps").read_text().split()
        for path in {part for part in mapped if "/libtiff" in part}:
            library = ctypes.CDLL(path)
            library.TIFFSetErrorHandler(None)
            library.TIFFSetWarningHandler(None)
    except (OSError, AttributeError):
        return  # its messages are only a nuisance


_silence_libtiff()


def decode(data: Data, kind: Format, header: Header | None, settings: PreprocessSettings) -> Decoded:
    """The photo in `data`, in its own mode: palette, alpha and CMYK are kept. That is the first picture, or
    the first frame with content. Gray pictures of more than 8 bits become mode L, except under `exact`.

    With a `background`, a picture with transparency is shown on it and becomes RGB.

    Color profiles are ignored, as in open_clip's transform. Pillow turns TIFF and HEIC by their own
    orientation, whatever `apply_exif_orientation` says. A file that Pillow rejects is tried again without
    its metadata.

    Raises ItemError: `unsupported_format`, `corrupt`, `truncated`, `too_many_pixels`, or `internal` if
    memory runs out.
    """
    data = (header and header.repaired) or data
    decoded = _attempt(data, kind, header, settings)
    if isinstance(decoded, Decoded):
        return decoded
    if kind.picture_alone and decoded.code in _DAMAGE and (alone := kind.picture_alone(data)):
        again = _attempt(alone, kind, header, settings)
        if isinstance(again, Decoded):
            text = f"{kind.name}: its metadata is damaged and was left out"
            return replace(again, notices=(Notice(NoticeCode.DAMAGED_METADATA, text), *again.notices))
    if kind.is_cut and decoded.code is ErrorCode.CORRUPT and kind.is_cut(data):
        size = header.size if header else None
        raise damaged(ErrorCode.TRUNCATED, kind.name, size, "the file ends too early")
    raise decoded


def _attempt(
    data: Data, kind: Format, header: Header | None, settings: PreprocessSettings
) -> Decoded | ItemError:
    """The decoded picture, or the error as a value: without its traceback, which would hold pictures."""
    try:
        return _decode(data, kind, header, settings)
    except ItemError as error:
        failure = ItemError(error.code, error.text)
        forget(error)
        return failure


def _decode(data: Data, kind: Format, header: Header | None, settings: PreprocessSettings) -> Decoded:
    picture = _open(data, kind, header)
    if header is None:
        check_sides(kind.name, picture.size, settings.limits.max_pixels)
    elif picture.size != header.size:
        raise damaged(ErrorCode.CORRUPT, kind.name, header.size, "its headers disagree")
    if settings.background != background.NONE:
        background.correct_key(picture)
    notices = _load(picture, kind, allow_truncated=settings.allow_truncated)
    if kind.lacks_rows and not notices and kind.lacks_rows(data, picture):
        failure = damaged(ErrorCode.TRUNCATED, kind.name, picture.size, "the last rows are missing")
        if not settings.allow_truncated:
            raise failure
        notices = (Notice(NoticeCode.TRUNCATED, failure.text),)
    orientation = exif.of_picture(picture) if settings.apply_exif_orientation else 1
    frame: Image.Image
    frame, other = animation.with_content(picture, lambda: _open(data, kind, header), settings.quality)
    if frame.mode == "La":  # a gray TIFF multiplied by its alpha: Pillow converts it to nothing else
        frame = frame.convert("LA")
    alpha = None if settings.background == background.NONE else background.opacity(frame)
    shown, clipped = samples.to_8_bits(frame, settings.quality)
    if alpha is not None:
        shown = background.flattened(shown, alpha, settings.background)
    return Decoded(shown, shown.size, orientation, notices=(*notices, *other, *clipped))


def _open(data: Data, kind: Format, header: Header | None) -> ImageFile.ImageFile:
    """The picture with its metadata read and no pixels decoded. AVIF and HEIC parse the container."""
    if kind.open is None:
        extra = f"./preprocess[{kind.name.lower()}]"
        text = f"{kind.name} needs a decoder that is not installed. In a clone: pip install '{extra}'"
        raise ItemError(ErrorCode.UNSUPPORTED_FORMAT, text)
    try:
        # BytesIO shares the memory of `bytes`, and copies a memoryview: 0.1 ms per megabyte.
        return kind.open(io.BytesIO(data))
    except Exception as error:
        size = header.size if header else None
        raise _as_item_error(error, kind, size, "its header cannot be read") from error


def _load(picture: ImageFile.ImageFile, kind: Format, *, allow_truncated: bool) -> tuple[Notice, ...]:
    """Decodes the pixels in place; returns a notice for a truncated picture that is kept."""
    try:
        picture.load()
    except Exception as error:
        failure = _as_item_error(error, kind, picture.size, "its picture data is damaged")
        if not (allow_truncated and failure.code is ErrorCode.TRUNCATED):
            raise failure from error
        picture.tile = []  # nothing left to read: what was decoded is the picture
        try:
            picture.load()
        except Exception:  # nothing was decoded
            raise failure from error
        return (Notice(NoticeCode.TRUNCATED, failure.text),)
    return ()


def _as_item_error(error: Exception, kind: Format, size: tuple[int, int] | None, otherwise: str) -> ItemError:
    """The decoders' many exceptions as one of ours; their texts never reach a client."""
    if isinstance(error, MemoryError):
        return damaged(ErrorCode.INTERNAL, kind.name, size, "not enough memory to decode it")
    if isinstance(error, Image.DecompressionBombError):
        return damaged(ErrorCode.TOO_MANY_PIXELS, kind.name, size, "its canvas is too large to decode")
    if isinstance(error, EOFError) or "truncated" in str(error).lower():
        return damaged(ErrorCode.TRUNCATED, kind.name, size, "the picture data ends too early")
    if any(part in str(error) for part in _UNSUPPORTED):
        return damaged(ErrorCode.UNSUPPORTED_FORMAT, kind.name, size, "its samples cannot be decoded")
    return damaged(ErrorCode.CORRUPT, kind.name, size, otherwise)
