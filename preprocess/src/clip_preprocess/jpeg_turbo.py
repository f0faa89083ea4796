"""libjpeg-turbo through simplejpeg, with its pixels as a Pillow picture.

Pillow decodes with the same library but drops its warnings: a file damaged in the middle becomes a half
gray picture without an error.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image

from clip_preprocess.headers.base import Data
from clip_preprocess.headers.jpeg import JpegHeader

SCALES = (8, 4, 2, 1)
"""Divisors of the sides; the transforms in between are not vectorized and cost more than they save."""
_COLORS = {1: "GRAY", 3: "RGBX", 4: "CMYK"}
"""The order of the decoded bytes, by the number of components."""
_pillow: Any = Image
"""With the internals that have no type stubs."""


def decode(data: Data, header: JpegHeader, scale: int, *, strict: bool) -> Image.Image:
    """The picture as stored, L, RGB or CMYK; its sides are the header's divided by `scale`, rounded up.

    Raises ValueError with libjpeg-turbo's text: for what it cannot decode and, if `strict`, for damage.
    """
    pixels = simplejpeg.decode_jpeg(
        data,
        _COLORS[header.components],
        min_height=-(-header.height // scale) if scale > 1 else 0,
        min_width=-(-header.width // scale) if scale > 1 else 0,
        strict=strict,
    )
    if header.components == 4:
        # Pillow takes all CMYK for inverted, as Adobe writes it, and open_clip takes it from Pillow.
        height, width = pixels.shape[:2]
        return Image.frombuffer("CMYK", (width, height), pixels, "raw", "CMYK;I", 0, 1)
    return to_picture(pixels)


def _share(pixels: npt.NDArray[np.uint8]) -> Image.Image:
    """A Pillow picture on the memory of `pixels`: uint8 [h,w,1] as L, [h,w,4] as RGB.

    Pillow stores RGB in four bytes per pixel too, but its public frombuffer() gives this memory the mode
    RGBX, whose fourth band would be resized as well. So this calls what frombuffer() calls.
    """
    height, width, channels = pixels.shape
    mode = "L" if channels == 1 else "RGB"
    mapped = _pillow.core.map_buffer(pixels, (width, height), "raw", 0, (mode, 0, 1))
    picture: Image.Image = _pillow.new(mode, (0, 0))._new(mapped)
    return picture


def _copy(pixels: npt.NDArray[np.uint8]) -> Image.Image:
    """The same picture by Pillow's public interface, which copies color pixels: 0.3 ms per megapixel."""
    height, width, channels = pixels.shape
    if channels == 1:
        return Image.frombuffer("L", (width, height), pixels, "raw", "L", 0, 1)
    return Image.frombytes("RGB", (width, height), pixels, "raw", "RGBX")


def _sharing_works() -> bool:
    """Whether the installed Pillow has the internals that _share uses, and they still mean the same."""
    pixels: npt.NDArray[np.uint8] = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
    try:
        picture = _share(pixels)
        shared = (picture.mode, picture.size, picture.tobytes()) == ("RGB", (3, 2), pixels[..., :3].tobytes())
        pixels[0, 0, 0] = 99
        return shared and picture.getpixel((0, 0)) == (99, 1, 2)
    except Exception:
        return False


to_picture = _share if _sharing_works() else _copy
