"""A decoded photo to the encoder's pixels: EXIF orientation, resize, padding, crop, RGB.

open_clip resizes and crops in the picture's own mode and converts to RGB last. A palette picture is thus
resized as indices; converting first would be off by many levels.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from clip_preprocess import defaults, exif, geometry, resizer
from clip_preprocess.decoded import Decoded
from clip_preprocess.settings import PreprocessSettings

Pixels = npt.NDArray[np.uint8]


def fit(decoded: Decoded, settings: PreprocessSettings) -> Pixels:
    """uint8 [H,W,3] in RGB, of `settings.image_size`.

    Quality `exact` resizes the whole picture and then crops, as open_clip does. The others resize the crop
    alone, except a picture that is padded in a mode of its own (palette, alpha, CMYK).
    """
    plan = geometry.plan(exif.seen_size(decoded.size, decoded.orientation), settings)
    whole = settings.quality == "exact" and plan.resized[0] * plan.resized[1] <= defaults.MAX_RESIZED_PIXELS
    if whole or (plan.pads and decoded.picture.mode not in ("L", "RGB")):
        return _resize_and_crop(exif.turned(decoded.picture, decoded.orientation), plan, settings.fill_color)
    return _resize_crop_alone(decoded, plan, settings.fill_color)


def _resize_crop_alone(decoded: Decoded, plan: geometry.Plan, fill: int) -> Pixels:
    """Resizes the crop as it is stored and turns the result: a turn of 224 x 224 costs nothing."""
    orientation = decoded.orientation
    fine = (decoded.size[0] / decoded.scale, decoded.size[1] / decoded.scale)
    box = exif.stored_box(plan.source_box(exif.seen_size(fine, orientation)), fine, orientation)
    size = exif.seen_size(plan.resized if plan.pads else plan.target, orientation)
    picture = exif.turned(resizer.fast_resize(decoded.picture, size, box, plan.interpolation), orientation)
    return _as_rgb(_pad(picture, plan.padding, fill) if plan.pads else picture)


def _resize_and_crop(picture: Image.Image, plan: geometry.Plan, fill: int) -> Pixels:
    """open_clip's own steps, on the picture as seen."""
    if picture.size != plan.resized:
        picture = _resize_whole(picture, plan)
    if plan.pads:
        picture = _pad(picture, plan.padding, fill)
    left, top = plan.corner
    if picture.size != plan.target:
        picture = picture.crop((left, top, left + plan.target[0], top + plan.target[1]))
    return _as_rgb(picture)


def _resize_whole(picture: Image.Image, plan: geometry.Plan) -> Image.Image:
    """`picture` at the plan's size; rows outside of the crop may be wrong if it is upright.

    Pillow first resizes each row on its own, and rounds. Rows that the crop does not depend on
    can skip that pass, which takes most of the time. Columns cannot, as their windows would shift; and
    pictures more than twice as high as wide are resized along the columns first.
    """
    width, height = picture.size
    filter_ = resizer.PILLOW_FILTERS[plan.interpolation]
    first, last = plan.rows_of_crop(height)
    upright = last - first < height <= 2 * width
    if plan.pads or picture.mode not in ("RGB", "L") or not upright:
        return picture.resize(plan.resized, filter_)
    strip = picture.crop((0, first, width, last)).resize((plan.resized[0], last - first), filter_)
    narrow = Image.new(picture.mode, (plan.resized[0], height))
    narrow.paste(strip, (0, first))
    return narrow.resize(plan.resized, filter_)


def _pad(picture: Image.Image, padding: tuple[int, int, int, int], fill: int) -> Image.Image:
    """torchvision's pad: `fill` in every band of the picture's own mode, palettes kept."""
    bands = len(picture.getbands())
    color: int | tuple[int, ...] = fill if bands == 1 else (fill,) * bands
    padded = ImageOps.expand(picture, padding, color)
    if picture.mode == "P":
        palette = picture.getpalette()
        if palette is not None:
            padded.putpalette(palette)
    return padded


def _as_rgb(picture: Image.Image) -> Pixels:
    return np.asarray(picture if picture.mode == "RGB" else picture.convert("RGB"))
