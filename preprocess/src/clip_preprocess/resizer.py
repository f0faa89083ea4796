"""Resizing a window of a picture: by fast_image_resize if it is installed, else by Pillow.

fast_image_resize (cykooz-resizer, the `fast` extra) has Pillow's filters, vectorized: a sixth of Pillow's
time, and a tenth of a level off it on average. It has no wheels for Linux on ARM. See docs/adr/0006.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from PIL import Image

from clip_preprocess.exif import Box
from clip_preprocess.settings import Interpolation

PILLOW_FILTERS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
}
Resize = Callable[[Image.Image, tuple[int, int], Box, Interpolation], Image.Image]


def pillow_resize(
    picture: Image.Image, size: tuple[int, int], box: Box, interpolation: Interpolation
) -> Image.Image:
    """The window `box` (left, top, right, bottom in pixels, fractions included) at `size` (width, height)."""
    return picture.resize(size, PILLOW_FILTERS[interpolation], box=box)


def _fast_resize() -> Resize | None:
    """pillow_resize() for L and RGB pictures, vectorized; None if the `fast` extra is not installed."""
    try:
        from cykooz_resizer import CropBox, FilterType, ResizeAlg, ResizeOptions, Resizer
    except ImportError:
        return None
    filters = {"bicubic": FilterType.catmull_rom, "bilinear": FilterType.bilinear}
    own = threading.local()  # a resizer keeps working memory and serves one thread at a time

    def resize(
        picture: Image.Image, size: tuple[int, int], box: Box, interpolation: Interpolation
    ) -> Image.Image:
        if picture.mode not in ("L", "RGB") or interpolation not in filters:
            return pillow_resize(picture, size, box, interpolation)
        if not hasattr(own, "resizer"):
            own.resizer = Resizer()
        left, top, right, bottom = box
        resized = Image.new(picture.mode, size)
        options = ResizeOptions(
            resize_alg=ResizeAlg.convolution(filters[interpolation]),
            crop_box=CropBox(left, top, right - left, bottom - top),
            use_alpha=False,
        )
        own.resizer.resize_pil(picture, resized, options)
        return resized

    return resize


fast_resize: Resize = _fast_resize() or pillow_resize
