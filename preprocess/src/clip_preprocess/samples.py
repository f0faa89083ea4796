"""Gray pictures of more than 8 bits: 16-bit PNG and TIFF, integer and float TIFF.

open_clip clips their values at 255, so almost all such photos become one white picture. Quality `exact`
mirrors that; the others scale the values to 8 bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from clip_preprocess.notices import Notice, NoticeCode
from clip_preprocess.settings import Quality

_WHITES = (255, 65_535)
"""White of 32-bit integers and floats is the first of these that no value exceeds; for floats, 1 comes first.
If there is none or a value is negative, black is the lowest value and white the highest."""
_SIGNED_WHITES = (255, 32_767)
"""The same for signed integers of 16 bits, which hold no higher value."""
_BLOCK = 1 << 20
"""Values scaled at a time, to bound memory."""
_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339
_WHITE_IS_ZERO = 0

Range = tuple[float, float]


def to_8_bits(picture: Image.Image, quality: Quality) -> tuple[Image.Image, tuple[Notice, ...]]:
    """The picture in mode L, if it has more bits; unchanged under `exact`, with a notice if open_clip clips.

    NaN becomes black.
    """
    if not (picture.mode in ("I", "F") or picture.mode.startswith("I;16")):
        return picture, ()
    tags: Any = getattr(picture, "tag_v2", {})
    if quality == "exact":
        return picture, _clipping(_extremes(_blocks(picture)), floats=picture.mode == "F")
    kind = tags.get(_BITS_PER_SAMPLE), tags.get(_SAMPLE_FORMAT, (1,))
    unsigned = picture.mode == "I" and kind == ((32,), (1,))
    if picture.mode.startswith("I;16"):
        black_white = (0.0, 4095.0 if tags.get(_BITS_PER_SAMPLE) == (12,) else 65535.0)
    else:
        whites: tuple[int, ...] = _SIGNED_WHITES if kind == ((16,), (2,)) else _WHITES
        whites = (1, *whites) if picture.mode == "F" else whites
        black_white = _range(_extremes(_blocks(picture, unsigned=unsigned)), whites)
    scaled = Image.new("L", picture.size)
    top = 0
    for values in _blocks(picture, unsigned=unsigned):
        inverted = tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO
        scaled.paste(Image.fromarray(_scaled(values, black_white, inverted=inverted)), (0, top))
        top += len(values)
    return scaled, ()


def _clipping(extremes: Range, *, floats: bool) -> tuple[Notice, ...]:
    """A notice if values lie outside of 0 to 255, or if floats lie between 0 and 1."""
    lowest, highest = extremes
    if lowest >= 0 and highest <= 255 and not (floats and 0 < highest <= 1):
        return ()
    text = (
        f"values from {lowest:,g} to {highest:,g}; quality exact mirrors open_clip, which clips them to 0-255"
    )
    return (Notice(NoticeCode.CLIPPED_RANGE, text),)


def _extremes(blocks: Iterator[npt.NDArray[Any]]) -> Range:
    """The lowest and highest finite value; zeros if there is none."""
    lowest, highest = math.inf, -math.inf
    for block in blocks:
        finite = block[np.isfinite(block)]
        if finite.size:
            lowest, highest = min(lowest, float(finite.min())), max(highest, float(finite.max()))
    return (lowest, highest) if lowest <= highest else (0.0, 0.0)


def _blocks(picture: Image.Image, *, unsigned: bool = False) -> Iterator[npt.NDArray[Any]]:
    """Rows of values, from the top. Pillow has no unsigned mode of 32 bits."""
    rows = max(_BLOCK // picture.width, 1)
    for top in range(0, picture.height, rows):
        block = np.asarray(picture.crop((0, top, picture.width, min(top + rows, picture.height))))
        yield block.view(np.uint32) if unsigned else block


def _range(extremes: Range, whites: tuple[int, ...]) -> Range:
    """The values of black and white."""
    lowest, highest = extremes
    white = next((white for white in whites if highest <= white), None)
    return (0.0, float(white)) if white is not None and lowest >= 0 else extremes


def _scaled(values: npt.NDArray[Any], black_white: Range, *, inverted: bool) -> npt.NDArray[np.uint8]:
    black, white = black_white
    with np.errstate(invalid="ignore"):  # NaN
        levels = (values.astype(np.float64) - black) * (255 / (white - black or 1))
    levels = np.nan_to_num(levels, nan=0.0, posinf=255.0, neginf=0.0).clip(0, 255)
    scaled: npt.NDArray[np.uint8] = np.rint(255 - levels if inverted else levels).astype(np.uint8)
    return scaled
