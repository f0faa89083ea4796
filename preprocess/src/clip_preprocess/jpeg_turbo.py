"""JPEG through libjpeg-turbo (simplejpeg): strict about damage, at full or reduced scale.

Pillow's decoder is the same library but keeps its warnings to itself, so that a file damaged in the
middle becomes a half grey picture and nobody hears of it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image, _imaging

from clip_preprocess.errors import ErrorCode
from clip_preprocess.headers.base import Data, damaged
from clip_preprocess.headers.jpeg import JpegHeader

SCALES = (8, 4, 2, 1)
"""Divisors of the sides; the transforms in between are not vectorised and cost more than they save."""

_TRUNCATED = "Premature end of JPEG file"
_DAMAGED = "Corrupt JPEG data"
_LEFT_OVER = "extraneous bytes before marker 0xd9"


class NotForTurboError(Exception):
    """A file that this decoder does not take; Pillow may, and has the last word."""


def decode(data: Data, header: JpegHeader, scale: int, *, allow_truncated: bool = False) -> Image.Image:
    """The picture as stored, L or RGB; its sides are those of the header divided by `scale`, rounded up.

    Raises ItemError (`truncated`, `corrupt`), NotForTurboError.
    """
    colours = "GRAY" if header.components == 1 else "RGBX"
    strict = not allow_truncated
    while True:
        try:
            pixels = simplejpeg.decode_jpeg(
                data,
                colours,
                min_height=-(-header.height // scale) if scale > 1 else 0,
                min_width=-(-header.width // scale) if scale > 1 else 0,
                strict=strict,
            )
            return _as_picture(pixels)
        except ValueError as error:
            text = str(error)
            if strict and _LEFT_OVER in text and _ends_with_padding(data):
                strict = False
                continue
            if _TRUNCATED in text:
                cause = "the picture data ends too early"
                raise damaged(ErrorCode.TRUNCATED, "JPEG", header.size, cause) from error
            if _DAMAGED in text:
                cause = "its picture data is damaged"
                raise damaged(ErrorCode.CORRUPT, "JPEG", header.size, cause) from error
            raise NotForTurboError(text) from error


def _as_picture(pixels: npt.NDArray[np.uint8]) -> Image.Image:
    """A Pillow picture on the same memory: uint8 [h,w,1] as L, [h,w,4] as RGB, which Pillow keeps in fours.

    Image.frombuffer() shares memory too, but not as RGB: as RGBX, of which four bands would be resized.
    """
    height, width, channels = pixels.shape
    mode = "L" if channels == 1 else "RGB"
    mapped = _imaging.map_buffer(pixels, (width, height), "raw", 0, (mode, 0, 1))
    return Image.new(mode, (0, 0))._new(mapped)


def _ends_with_padding(data: Data) -> bool:
    """Whether equal bytes fill the room before the end marker, as some cameras write; else it is damage."""
    tail = bytes(data[-65536:])
    end = tail.rfind(b"\xff\xd9")
    return end >= 2 and tail[end - 1] == tail[end - 2] in (0x00, 0xFF)
