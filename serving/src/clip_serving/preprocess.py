"""Encoded photos to the encoder's uint8 pixels: open_clip's image_transform without its tensor part.

The order is open_clip's: resize and crop in the picture's own mode, then RGB. A palette picture is
thus resized as indices, and converting first would be off by many levels.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from clip_serving import geometry
from clip_serving.decode import decode
from clip_serving.errors import ErrorCode, ItemError
from clip_serving.header import Data
from clip_serving.settings import PreprocessSettings

Pixels = npt.NDArray[np.uint8]

MAX_RESIZED_PIXELS = 16_000_000
"""Largest resized whole that is made before its crop is taken.

open_clip resizes all of a 5000 x 3 strip to 373,333 x 224 to keep 224 x 224 of it. Beyond this size
(an aspect ratio of 318 at 224 pixels) only the crop is resized, which bounds time and memory and may
differ from open_clip by some levels: Pillow's filter windows start elsewhere.
"""

_FILTERS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
}
_log = logging.getLogger(__name__)


class Preprocessor:
    """Turns batches of encoded photos into pixels, `threads` of them side by side."""

    def __init__(self, settings: PreprocessSettings, threads: int = 1) -> None:
        self._settings = settings
        self._pool = ThreadPoolExecutor(threads, "preprocess") if threads > 1 else None

    def run(self, images: Sequence[Data], out: Pixels) -> list[ItemError | None]:
        """Writes row i of `out`, uint8 [N,H,W,3], from photo i; zeros where it fails.

        Never raises for a photo: what is wrong with it stands in its place of the result.
        """
        rows = partial(_fill_row, settings=self._settings)
        if self._pool is None or len(images) < 2:
            return [rows(data, row) for data, row in zip(images, out, strict=True)]
        # Threads take photo after photo: a slow one occupies its own thread and no other.
        return list(self._pool.map(rows, images, out))

    def close(self) -> None:
        """Ends the threads."""
        if self._pool is not None:
            self._pool.shutdown()


def _fill_row(data: Data, row: Pixels, settings: PreprocessSettings) -> ItemError | None:
    try:
        row[:] = preprocess_one(data, settings)
        return None
    except ItemError as error:
        failure = error
    except Exception:
        _log.exception("a photo of %d bytes could not be preprocessed", len(data))
        failure = ItemError(ErrorCode.INTERNAL, "the server failed on this image; its log says where")
    row[:] = 0
    return failure


def preprocess_one(data: Data, settings: PreprocessSettings) -> Pixels:
    """One encoded photo to uint8 [H,W,3], RGB. Raises ItemError."""
    picture = decode(data, settings.limits, apply_exif_orientation=settings.apply_exif_orientation)
    return np.asarray(fit(picture, settings))


def fit(picture: Image.Image, settings: PreprocessSettings) -> Image.Image:
    """Resizes, pads and crops in the picture's own mode, then converts to RGB."""
    plan = geometry.plan(picture.size, settings.image_size, settings.resize_mode, settings.interpolation)
    resample = _FILTERS[plan.interpolation]
    if plan.resized[0] * plan.resized[1] > MAX_RESIZED_PIXELS and not plan.pads:
        picture = picture.resize(plan.target, resample, box=plan.source_box(picture.size))
    else:
        if picture.size != plan.resized:
            picture = picture.resize(plan.resized, resample)
        if plan.pads:
            picture = _pad(picture, plan.padding, settings.fill_color)
        left, top = plan.corner
        if picture.size != plan.target:
            picture = picture.crop((left, top, left + plan.target[0], top + plan.target[1]))
    return picture.convert("RGB")


def _pad(picture: Image.Image, padding: tuple[int, int, int, int], fill: int) -> Image.Image:
    """torchvision's pad: `fill` in every band of the picture's own mode, palettes kept."""
    bands = len(picture.getbands())
    colour: int | tuple[int, ...] = fill if bands == 1 else (fill,) * bands
    padded = ImageOps.expand(picture, padding, colour)
    if picture.mode == "P":
        palette = picture.getpalette()
        if palette is not None:
            padded.putpalette(palette)
    return padded
