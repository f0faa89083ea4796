"""EXIF orientation: reads it, and applies it before or after resizing (see resample.py)."""

from __future__ import annotations

import re
import struct
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

_XMP_ORIENTATION = re.compile(rb"\btiff:Orientation\s*(?:=\s*[\"']|>)\s*([0-9])\s*[\"'<]")
"""As an attribute in either kind of quotes, or as an element."""
_INTEGERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i"}
"""TIFF's integer types, in struct's letters."""

_PREFIX = b"Exif\0\0"

Box = tuple[float, float, float, float]
Side = TypeVar("Side", int, float)


def of_metadata(exif: bytes, xmp: bytes) -> int:
    """The orientation 1-8 in a JPEG's segments: EXIF first, then XMP, like Pillow's exif_transpose.

    1 (as stored) if the metadata is damaged.
    """
    orientation = _from_exif(exif) if exif else None
    if orientation is None and xmp:
        found = _XMP_ORIENTATION.search(xmp)
        orientation = int(found[1]) if found else None
    return orientation if orientation in _TRANSPOSITIONS else 1


def is_readable(exif: bytes) -> bool:
    """Whether a JPEG's EXIF segment has a first directory."""
    return _directory(exif) is not None


def _from_exif(exif: bytes) -> int | None:
    """The orientation in the first directory; None if there is none, or not a single integer.

    Reads one entry after the other and nothing that they point to, unlike Pillow's parser, which copies
    megabytes for each of 65,535 entries if a file asks for it.
    """
    order, entries = _directory(exif) or ("<", b"")
    orientation = None
    for tag, kind, values, value in struct.iter_unpack(f"{order}HHI4s", entries):
        if tag == ExifTags.Base.Orientation and values == 1 and kind in _INTEGERS:
            (orientation,) = struct.unpack_from(order + _INTEGERS[kind], value)
    return orientation


def _directory(exif: bytes) -> tuple[str, bytes] | None:
    """The byte order, in struct's letters, and the entries of 12 bytes each; None if there are none."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[6:10], "")
    if not order or len(exif) < 14:
        return None
    at = 6 + struct.unpack_from(f"{order}I", exif, 10)[0]
    if at + 2 > len(exif):
        return None
    (count,) = struct.unpack_from(f"{order}H", exif, at)
    entries = exif[at + 2 : at + 2 + 12 * count]
    return order, entries[: len(entries) // 12 * 12]


def of_picture(picture: Image.Image) -> int:
    """The orientation 1-8 of a decoded picture of any format, where Pillow's exif_transpose finds it."""
    exif = picture.info.get("exif")
    if isinstance(exif, bytes) and exif:
        xmp = picture.info.get("xmp") or picture.info.get("XML:com.adobe.xmp") or b""
        prefixed = exif if exif.startswith(_PREFIX) else _PREFIX + exif
        return of_metadata(prefixed, xmp if isinstance(xmp, bytes) else str(xmp).encode())
    try:
        orientation = picture.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # the parser raises many types, and the pixels do not depend on it
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
