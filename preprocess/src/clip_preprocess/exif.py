"""EXIF orientation: reads it, and applies it before or after resizing (see resample.py)."""

from __future__ import annotations

import re
from typing import TypeVar

from PIL import ExifTags, Image

_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""From the picture as stored to the picture as seen. Orientation 1 is as stored; 5 to 8 swap the sides."""

_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(="|>)([0-9])')

Box = tuple[float, float, float, float]
Side = TypeVar("Side", int, float)


def of_metadata(exif: bytes, xmp: bytes) -> int:
    """The orientation 1-8 in a JPEG's segments: EXIF first, then XMP, like Pillow's exif_transpose.

    1 (as stored) if the metadata is damaged.
    """
    orientation = _from_exif(exif) if exif else None
    if orientation is None and xmp:
        found = _XMP_ORIENTATION.search(xmp)
        orientation = int(found[2]) if found else None
    return orientation if orientation in _TRANSPOSITIONS else 1


def _from_exif(exif: bytes) -> int | None:
    if exif.find(b"\x12\x01") < 0 and exif.find(b"\x01\x12") < 0:  # the tag, in either byte order
        return None
    parsed = Image.Exif()
    try:
        parsed.load(exif)
        orientation = parsed.get(ExifTags.Base.Orientation)
    except Exception:  # the parser raises many types, and the pixels do not depend on it
        return None
    return orientation if isinstance(orientation, int) else None


def of_picture(picture: Image.Image) -> int:
    """The orientation 1-8 of a decoded picture of any format."""
    try:
        orientation = picture.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # as above
        return 1
    return orientation if orientation in _TRANSPOSITIONS else 1


def turned(picture: Image.Image, orientation: int) -> Image.Image:
    """The picture as seen; the same object if there is nothing to do."""
    return picture if orientation == 1 else picture.transpose(_TRANSPOSITIONS[orientation])


def seen_size(size: tuple[Side, Side], orientation: int) -> tuple[Side, Side]:
    """(width, height) as seen, for a picture stored as `size`. Its own inverse."""
    return size[::-1] if orientation >= 5 else size


def stored_box(box: Box, stored: tuple[float, float], orientation: int) -> Box:
    """A box (left, top, right, bottom) of the picture as seen, in coordinates of the picture as stored."""
    left, top, right, bottom = box
    width, height = stored
    if orientation >= 5:
        left, top, right, bottom = top, left, bottom, right
    if orientation in (2, 3, 7, 8):
        left, right = width - right, width - left
    if orientation in (3, 4, 6, 7):
        top, bottom = height - bottom, height - top
    return left, top, right, bottom
