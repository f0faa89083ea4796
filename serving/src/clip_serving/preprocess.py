"""Photos to the encoder's pixels, equal bit for bit to open_clip's own transform.

The order is open_clip's: resize and crop in the picture's own mode, then RGB. A palette picture is
thus resized by its indices, as the model's evaluation does it.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from clip_serving import defaults
from clip_serving.decode import decode
from clip_serving.errors import ErrorCode, ItemError
from clip_serving.settings import PreprocessSettings

_FILTERS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
}


class Preprocessor:
    """Makes the pixels of a batch; `threads` photos of it are worked on side by side."""

    def __init__(self, settings: PreprocessSettings, threads: int = 1) -> None:
        self._settings = settings
        self._pool = ThreadPoolExecutor(threads, "preprocess") if threads > 1 else None

    def run(self, images: Sequence[bytes], out: npt.NDArray[np.uint8]) -> list[ItemError | None]:
        """Writes photo i into `out[i]`, uint8 [N,H,W,3]; a photo that fails leaves zeros there.

        Returns one entry a photo: None, or what is wrong with it. Never raises for a bad photo.
        """

        def one(index: int) -> ItemError | None:
            try:
                out[index] = preprocess_one(images[index], self._settings)
                return None
            except ItemError as error:
                failure = error
            except Exception as error:
                failure = ItemError(ErrorCode.INTERNAL, f"{type(error).__name__} in preprocess")
            out[index] = 0
            return failure

        indices = range(len(images))
        return list(self._pool.map(one, indices) if self._pool else map(one, indices))


def preprocess_one(data: bytes, settings: PreprocessSettings) -> npt.NDArray[np.uint8]:
    """One encoded photo to uint8 [H,W,3], RGB; raises ItemError."""
    image = decode(data, settings.limits, apply_exif_orientation=settings.apply_exif_orientation)
    return to_pixels(image, settings)


def to_pixels(image: Image.Image, settings: PreprocessSettings) -> npt.NDArray[np.uint8]:
    """open_clip's image_transform up to its tensor: resize, crop or pad, RGB. uint8 [H,W,3]."""
    plan = _plan(image.width, image.height, settings)
    if plan.width * plan.height > defaults.MAX_RESIZED_PIXELS:
        fitted = image.resize(settings.image_size[::-1], plan.filter, box=plan.crop_in(image))
    else:
        fitted = image
        if image.size != (plan.width, plan.height):
            fitted = image.resize((plan.width, plan.height), plan.filter)
        fitted = _crop_or_pad(fitted, settings)
    return np.asarray(fitted.convert("RGB"))


@dataclass(frozen=True)
class _Plan:
    """The resized whole's size, the filter, and the crop's corner and size in it, in pixels."""

    width: int
    height: int
    filter: Image.Resampling
    left: int
    top: int
    crop_width: int
    crop_height: int

    def crop_in(self, image: Image.Image) -> tuple[float, float, float, float]:
        """The crop in the coordinates of the picture as it is: left, top, right, bottom."""
        across, down = image.width / self.width, image.height / self.height
        left, top = self.left * across, self.top * down
        return (
            left,
            top,
            min(left + self.crop_width * across, image.width),
            min(top + self.crop_height * down, image.height),
        )


def _plan(width: int, height: int, settings: PreprocessSettings) -> _Plan:
    new_width, new_height = _resized(width, height, settings)
    target_height, target_width = settings.image_size
    # A non-square `shortest` keeps open_clip's default filter: it forgets to pass its own on.
    forgotten = settings.resize_mode == "shortest" and target_height != target_width
    return _Plan(
        new_width,
        new_height,
        _FILTERS["bicubic" if forgotten else settings.interpolation],
        round((new_width - target_width) / 2.0),
        round((new_height - target_height) / 2.0),
        target_width,
        target_height,
    )


def _resized(width: int, height: int, settings: PreprocessSettings) -> tuple[int, int]:
    """The whole picture's size after the resize, rounded as torchvision and timm round."""
    target_height, target_width = settings.image_size
    if settings.resize_mode == "squash":
        return target_width, target_height
    if settings.resize_mode == "shortest" and target_height == target_width:
        long = int(target_width * max(width, height) / min(width, height))
        return (long, target_height) if width > height else (target_width, long)
    ratios = (height / target_height, width / target_width)
    ratio = max(ratios) if settings.resize_mode == "longest" else min(ratios)
    return round(width / ratio), round(height / ratio)


def _crop_or_pad(image: Image.Image, settings: PreprocessSettings) -> Image.Image:
    height, width = settings.image_size
    if width > image.width or height > image.height:
        spare_x, spare_y = max(0, width - image.width), max(0, height - image.height)
        border = (spare_x // 2, spare_y // 2, (spare_x + 1) // 2, (spare_y + 1) // 2)
        fill = tuple([settings.fill_color] * len(image.getbands()))
        image = ImageOps.expand(image, border, fill if len(fill) > 1 else fill[0])
    if image.size == (width, height):
        return image
    left, top = round((image.width - width) / 2.0), round((image.height - height) / 2.0)
    return image.crop((left, top, left + width, top + height))
