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

from clip_serving import exif, geometry, resample, turbo
from clip_serving.decode import check, check_sides, decode
from clip_serving.errors import ErrorCode, ItemError
from clip_serving.header import Data
from clip_serving.jpeg import JpegHeader
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
_MARGINS = {"high": 3, "fast": 2}
"""By how much a JPEG's scaled sides exceed the resized ones at least."""
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
        pixels, notice = _pixels(data, settings)
        row[:] = pixels
        return notice
    except ItemError as error:
        failure = error
    except Exception:
        _log.exception("a photo of %d bytes could not be preprocessed", len(data))
        failure = ItemError(ErrorCode.INTERNAL, "the server failed on this image; its log says where")
    row[:] = 0
    return failure


def preprocess_one(data: Data, settings: PreprocessSettings) -> Pixels:
    """One encoded photo to uint8 [H,W,3], RGB. Raises ItemError."""
    pixels = np.empty((*settings.image_size, 3), np.uint8)
    pixels[:] = _pixels(data, settings)[0]
    return pixels


def _pixels(data: Data, settings: PreprocessSettings) -> tuple[Pixels, ItemError | None]:
    """Pixels that fill [H,W,3] (a grey photo's are [H,W,1]), and what is amiss with a kept photo.

    The one place that chooses a decoder: libjpeg-turbo for JPEG in grey and colour, Pillow for all else.
    """
    sniffed = check(data, settings)
    if isinstance(sniffed.header, JpegHeader) and sniffed.header.components in (1, 3):
        try:
            return _jpeg_pixels(data, sniffed.header, settings)
        except turbo.NotForTurboError:
            check_sides(sniffed.header.format, sniffed.header.size, settings.limits.max_pixels)
    picture, notice = decode(data, sniffed, settings)
    plan = _plan(picture.size, settings)
    return np.asarray(_fit(picture, plan, settings)), notice


def _jpeg_pixels(
    data: Data, header: JpegHeader, settings: PreprocessSettings
) -> tuple[Pixels, ItemError | None]:
    orientation = exif.of_metadata(header.exif, header.xmp) if settings.apply_exif_orientation else 1
    source = exif.seen_size(header.size, orientation)
    plan = _plan(source, settings)
    if settings.quality == "exact" or not resample.supports(plan.interpolation):
        stored, notice = _decode_jpeg(data, header, 1, settings, padded=True)
        picture = _as_picture(stored)
        if orientation != 1:
            picture = picture.transpose(exif.TRANSPOSITIONS[orientation])
        return np.asarray(_fit(picture, plan, settings)), notice
    scale = geometry.scale_for(source, plan, _MARGINS[settings.quality], turbo.SCALES)
    stored, notice = _decode_jpeg(data, header, scale, settings)
    return _resampled(stored, header, plan, orientation, scale, settings), notice


def _decode_jpeg(
    data: Data, header: JpegHeader, scale: int, settings: PreprocessSettings, *, padded: bool = False
) -> tuple[Pixels, ItemError | None]:
    """turbo.decode, and once more without its strictness where truncated photos are wanted."""
    scaled = (-(-header.width // scale), -(-header.height // scale))
    check_sides(header.format, scaled, settings.limits.max_pixels)
    try:
        return turbo.decode(data, header, scale, padded=padded), None
    except ItemError as error:
        if not settings.allow_truncated or error.code is not ErrorCode.TRUNCATED:
            raise
        stored = turbo.decode(data, header, scale, padded=padded, allow_truncated=True)
        return stored, ItemError(error.code, error.text, partial=True)


def _as_picture(stored: Pixels) -> Image.Image:
    """A Pillow picture on the same memory: [h,w,1] as L, [h,w,4] as RGBX."""
    mode = "L" if stored.shape[2] == 1 else "RGBX"
    return Image.frombuffer(mode, (stored.shape[1], stored.shape[0]), stored, "raw", mode, 0, 1)


def _resampled(
    stored: Pixels,
    header: JpegHeader,
    plan: geometry.Plan,
    orientation: int,
    scale: int,
    settings: PreprocessSettings,
) -> Pixels:
    """The crop alone, resized as it is stored and then turned: a turn of 224 x 224 costs nothing."""
    fine = (header.width / scale, header.height / scale)
    box = plan.source_box(exif.seen_size(fine, orientation))
    size = plan.resized if plan.pads else plan.target
    pixels = resample.resample(
        stored,
        exif.seen_size(size, orientation),
        exif.stored_box(box, fine, orientation),
        plan.interpolation,
    )
    pixels = exif.as_seen(pixels, orientation)
    if not plan.pads:
        return pixels
    left, top, _, _ = plan.padding
    padded = np.full((plan.target[1], plan.target[0], 3), settings.fill_color, np.uint8)
    padded[top : top + size[1], left : left + size[0]] = pixels
    return padded


def _plan(source: tuple[int, int], settings: PreprocessSettings) -> geometry.Plan:
    return geometry.plan(source, settings.image_size, settings.resize_mode, settings.interpolation)


def _fit(picture: Image.Image, plan: geometry.Plan, settings: PreprocessSettings) -> Image.Image:
    """Resizes, pads and crops in the picture's own mode, then converts to RGB."""
    filter_ = _FILTERS[plan.interpolation]
    whole = settings.quality == "exact" and plan.resized[0] * plan.resized[1] <= MAX_RESIZED_PIXELS
    if not whole and not plan.pads:
        picture = picture.resize(plan.target, filter_, box=plan.source_box(picture.size))
    else:
        if picture.size != plan.resized:
            picture = picture.resize(plan.resized, filter_)
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
