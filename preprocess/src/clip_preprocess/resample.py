"""Resizing for the qualities below `exact`: the filters of Pillow, vectorised (fast_image_resize).

Differs from Pillow by a tenth of a level on average, for a fifth of its time.
"""

from __future__ import annotations

import threading

import numpy as np
import numpy.typing as npt
from cykooz_resizer import CropBox, FilterType, ResizeAlg, ResizeOptions, Resizer
from PIL import Image

from clip_preprocess.exif import Box
from clip_preprocess.settings import Interpolation

_FILTERS = {"bicubic": FilterType.catmull_rom, "bilinear": FilterType.bilinear}


class _PerThread(threading.local):
    """A resizer keeps its working memory between calls and serves one thread at a time."""

    def __init__(self) -> None:
        self.resizer = Resizer()


_own = _PerThread()


def supports(interpolation: Interpolation) -> bool:
    return interpolation in _FILTERS


def resample(
    picture: Image.Image, size: tuple[int, int], box: Box, interpolation: Interpolation
) -> npt.NDArray[np.uint8]:
    """The part `box` (left, top, right, bottom, in pixels) of an L or RGB picture, uint8 [h,w,1|3]."""
    left, top, right, bottom = box
    target = Image.new(picture.mode, size)
    options = ResizeOptions(
        resize_alg=ResizeAlg.convolution(_FILTERS[interpolation]),
        crop_box=CropBox(left, top, right - left, bottom - top),
        use_alpha=False,
    )
    _own.resizer.resize_pil(picture, target, options)
    return np.asarray(target).reshape(size[1], size[0], -1)
