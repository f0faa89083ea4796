"""Encoded photos to the encoder's uint8 pixels: open_clip's image_transform without its tensor part.

The order is open_clip's: resize and crop in the picture's own mode, then RGB. A palette picture is
thus resized as indices, and converting first would be off by many levels.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from clip_preprocess import defaults, exif, geometry, jpeg_turbo, resample
from clip_preprocess.deadline import DeadlinePool
from clip_preprocess.errors import ErrorCode, ItemError
from clip_preprocess.formats import format_name
from clip_preprocess.headers.base import Data
from clip_preprocess.headers.jpeg import JpegHeader
from clip_preprocess.pillow_decoder import check, check_sides, decode
from clip_preprocess.settings import PreprocessSettings

Pixels = npt.NDArray[np.uint8]

_FILTERS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
}
_MARGINS = {"high": 3, "fast": 2}
"""By how much a JPEG's scaled sides exceed the resized ones at least."""
_log = logging.getLogger(__name__)


@dataclass
class Outcome:
    """What became of one photo, and what it cost."""

    error: ItemError | None = None
    """None for a sound photo; one marked `partial` stands beside pixels, any other instead of them."""
    format: str = ""
    """Its format by content; empty where it was refused before that was known."""
    pixels: int = 0
    """Pixels that were decoded: fewer than the photo has where it was read at a smaller scale."""
    decode_s: float = 0.0
    preprocess_s: float = 0.0
    """Seconds for orientation, resize and crop."""

    @property
    def valid(self) -> bool:
        return self.error is None or self.error.partial


class Preprocessor:
    """Turns batches of encoded photos into pixels, `threads` of them side by side."""

    def __init__(
        self, settings: PreprocessSettings, threads: int = 1, on_photo: Callable[[], None] | None = None
    ) -> None:
        """`on_photo` is called as each photo begins: whoever guards this process sees it alive."""
        self._settings = settings
        self._timeout_s = settings.limits.decode_timeout_s
        self._pool = DeadlinePool(threads, self._timeout_s)
        self._on_photo = on_photo

    @property
    def stuck(self) -> int:
        """Threads still busy with photos that were given up as `decode_timeout`."""
        return self._pool.stuck

    def run(self, images: Sequence[Data], out: Pixels) -> list[Outcome]:
        """Writes row i of `out`, uint8 [N,H,W,3], from photo i; a failed photo's row means nothing.

        Never raises for a photo: what is wrong with it stands in its place of the result.
        """
        outcomes = [Outcome() for _ in images]

        def fill(index: int) -> None:
            if self._on_photo is not None:
                self._on_photo()
            _fill_row(images[index], out[index], self._settings, outcomes[index])

        for index in self._pool.run(fill, len(images)):
            text = f"{len(images[index]):,} bytes took longer than {self._timeout_s:g} s"
            # A new object: the thread that is stuck may yet write into the old one.
            outcomes[index] = Outcome(
                ItemError(ErrorCode.DECODE_TIMEOUT, text), outcomes[index].format, decode_s=self._timeout_s
            )
        return outcomes

    def close(self) -> None:
        """Ends the threads."""
        self._pool.close()


def _fill_row(data: Data, row: Pixels, settings: PreprocessSettings, outcome: Outcome) -> None:
    try:
        begin = time.perf_counter()
        try:
            finish = _decode(data, settings, outcome)
        finally:
            decoded = time.perf_counter()
            outcome.decode_s = decoded - begin
        row[:] = finish()
        outcome.preprocess_s = time.perf_counter() - decoded
        return
    except ItemError as error:
        outcome.error = ItemError(error.code, error.text)
        _forget(error)
    except Exception as error:
        _log.exception("a photo of %d bytes could not be preprocessed", len(data))
        outcome.error = ItemError(ErrorCode.INTERNAL, "the server failed on this image; its log says where")
        _forget(error)
    row[:] = 0


def _forget(error: BaseException | None) -> None:
    """Frees what the functions that raised it held, a picture often.

    They and their errors hold each other: without this it would be for the garbage collector, much later.
    """
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def preprocess_one(data: Data, settings: PreprocessSettings) -> Pixels:
    """One encoded photo to uint8 [H,W,3], RGB. Raises ItemError."""
    pixels = np.empty((*settings.image_size, 3), np.uint8)
    pixels[:] = _decode(data, settings, Outcome())()
    return pixels


def _decode(data: Data, settings: PreprocessSettings, outcome: Outcome) -> Callable[[], Pixels]:
    """Decodes; what it returns makes pixels that fill [H,W,3] (a grey photo's are [H,W,1]).

    The one place that chooses a decoder: libjpeg-turbo for JPEG in grey and colour, Pillow for all else.
    """
    outcome.format = format_name(data)
    sniffed = check(data, settings)
    if isinstance(sniffed.header, JpegHeader) and sniffed.header.components in (1, 3):
        try:
            return _decode_jpeg(data, sniffed.header, settings, outcome)
        except jpeg_turbo.NotForTurboError:
            check_sides(sniffed.header.format, sniffed.header.size, settings.limits.max_pixels)
    picture, outcome.error = decode(data, sniffed, settings)
    outcome.pixels = picture.width * picture.height
    return partial(_fit, picture, settings)


def _decode_jpeg(
    data: Data, header: JpegHeader, settings: PreprocessSettings, outcome: Outcome
) -> Callable[[], Pixels]:
    orientation = exif.of_metadata(header.exif, header.xmp) if settings.apply_exif_orientation else 1
    source = exif.seen_size(header.size, orientation)
    plan = _plan(source, settings)
    if settings.quality == "exact" or not resample.supports(plan.interpolation):
        picture = _read_jpeg(data, header, 1, settings, outcome)
        if orientation != 1:
            picture = picture.transpose(exif.TRANSPOSITIONS[orientation])
        return partial(_fit, picture, settings)
    scale = geometry.scale_for(source, plan, _MARGINS[settings.quality], jpeg_turbo.SCALES)
    picture = _read_jpeg(data, header, scale, settings, outcome)
    return partial(_resampled, picture, header, plan, orientation, scale, settings)


def _read_jpeg(
    data: Data, header: JpegHeader, scale: int, settings: PreprocessSettings, outcome: Outcome
) -> Image.Image:
    """jpeg_turbo.decode, and once more without its strictness where truncated photos are wanted."""
    scaled = (-(-header.width // scale), -(-header.height // scale))
    check_sides(header.format, scaled, settings.limits.max_pixels)
    try:
        picture = jpeg_turbo.decode(data, header, scale)
    except ItemError as error:
        if not settings.allow_truncated or error.code is not ErrorCode.TRUNCATED:
            raise
        picture = jpeg_turbo.decode(data, header, scale, allow_truncated=True)
        outcome.error = ItemError(error.code, error.text, partial=True)
    outcome.pixels = picture.width * picture.height
    return picture


def _resampled(
    stored: Image.Image,
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


def _fit(picture: Image.Image, settings: PreprocessSettings) -> Pixels:
    """Resizes, pads and crops in the picture's own mode, then converts to RGB."""
    plan = _plan(picture.size, settings)
    filter_ = _FILTERS[plan.interpolation]
    whole = settings.quality == "exact" and plan.resized[0] * plan.resized[1] <= defaults.MAX_RESIZED_PIXELS
    if not whole and not plan.pads:
        picture = picture.resize(plan.target, filter_, box=plan.source_box(picture.size))
    else:
        if picture.size != plan.resized:
            picture = _resize_whole(picture, plan, filter_)
        if plan.pads:
            picture = _pad(picture, plan.padding, settings.fill_color)
        left, top = plan.corner
        if picture.size != plan.target:
            picture = picture.crop((left, top, left + plan.target[0], top + plan.target[1]))
    return np.asarray(picture.convert("RGB"))


def _resize_whole(picture: Image.Image, plan: geometry.Plan, filter_: Image.Resampling) -> Image.Image:
    """`picture` at the plan's size; of an upright one, rows outside of the crop may be wrong.

    Pillow resizes along the rows first, each for itself, and rounds. Rows that the crop is not made of can
    stay out of that pass, which takes most of the time. (Columns cannot: their windows would shift. And of
    pictures twice as high as wide Pillow resizes the columns first.)
    """
    width, height = picture.size
    first, last = geometry.rows_of_crop(height, plan)
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
    colour: int | tuple[int, ...] = fill if bands == 1 else (fill,) * bands
    padded = ImageOps.expand(picture, padding, colour)
    if picture.mode == "P":
        palette = picture.getpalette()
        if palette is not None:
            padded.putpalette(palette)
    return padded
