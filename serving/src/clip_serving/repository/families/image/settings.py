"""The operator's settings of the image family: the `image` section of deployment.json."""

# ruff: noqa: RUF009 - setting() returns a dataclass field

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from clip_preprocess import background
from clip_preprocess import defaults as preprocess_defaults
from clip_preprocess.settings import DecodeLimits, PreprocessSettings, Quality
from clip_serving import defaults
from clip_serving.defaults import EncoderPrecision
from clip_serving.repository.families import shared_settings
from clip_serving.repository.settings import (
    INT64_MAX,
    Choice,
    Color,
    FamilySettings,
    PositiveNumber,
    Switch,
    WholeNumber,
    WholeNumbers,
    setting,
)
from clip_serving.repository.spec import ModelSpec

_DAY_S = 24 * 3600


@dataclass(frozen=True)
class ImageSettings(FamilySettings):
    """Settings of clip_image, clip_image_preprocess and clip_image_encoder."""

    max_batch_size: int = shared_settings.max_batch_size("photos")
    preprocess_instances: int = setting(
        defaults.PREPROCESS_INSTANCES,
        "preprocess.instances",
        "processes that decode and preprocess photos",
        WholeNumber(),
    )
    preprocess_threads: int = setting(
        defaults.PREPROCESS_THREADS,
        "preprocess.threads",
        "photos of one batch that one preprocess instance decodes in parallel",
        WholeNumber(),
    )
    max_queue_size: int = shared_settings.max_queue_size("preprocess")
    quality: Quality = setting(
        defaults.QUALITY,
        "preprocess.quality",
        "exact: open_clip's pixels bit for bit; high, fast: JPEGs decoded at a reduced scale, for a third of "
        "the CPU",
        Choice(get_args(Quality)),
    )
    apply_exif_orientation: bool = setting(
        True,
        "preprocess.apply_exif_orientation",
        "embed photos the way the camera was held; open_clip embeds them as stored",
        Switch(off="ignore-exif-orientation"),
    )
    allow_truncated: bool = setting(
        False,
        "preprocess.allow_truncated",
        "embed photos whose data ends early; the notice beside the embedding says so",
        Switch(off="no-allow-truncated"),
    )
    background: str = setting(
        background.NONE,
        "preprocess.background",
        'color behind pictures with transparency, such as "#ffffff"; none ignores transparency, as open_clip '
        "does",
        Color(),
    )
    max_bytes: int = setting(
        preprocess_defaults.MAX_BYTES,
        "preprocess.max_bytes",
        "largest encoded photo, in bytes",
        WholeNumber(maximum=INT64_MAX),
    )
    max_pixels: int = setting(
        preprocess_defaults.MAX_PIXELS,
        "preprocess.max_pixels",
        "most pixels decoded for one photo",
        WholeNumber(maximum=INT64_MAX),
    )
    decode_timeout_s: float = setting(
        preprocess_defaults.DECODE_TIMEOUT_S,
        "preprocess.decode_timeout_s",
        "longest decode of one photo, in seconds",
        PositiveNumber(maximum=_DAY_S),
        flag="decode-timeout",
    )
    encoder_instances: int = shared_settings.encoder_instances()
    encoder_threads: int = shared_settings.encoder_threads()
    encoder_precision: EncoderPrecision = setting(
        defaults.ENCODER_PRECISION,
        "encoder.precision",
        "of a CPU encoder. auto: bf16 if the serving CPU supports it and it passes its check, else fp32; "
        "int8 is fastest and least exact",
        Choice(get_args(EncoderPrecision)),
    )
    preferred_batch_sizes: tuple[int, ...] = setting(
        defaults.PREFERRED_BATCH_SIZES,
        "encoder.preferred_batch_sizes",
        "batch sizes that a CPU encoder runs without further delay; those above max_batch_size are ignored",
        WholeNumbers(),
    )
    max_queue_delay_us: int = shared_settings.max_queue_delay_us()
    encoder_version: int | None = shared_settings.encoder_version()


def preprocess_settings(spec: ModelSpec, settings: ImageSettings) -> PreprocessSettings:
    """The settings of clip_image_preprocess: the model's pixels within the operator's limits."""
    return PreprocessSettings(
        image_size=spec.image_size,
        interpolation=spec.interpolation,
        resize_mode=spec.resize_mode,
        fill_color=spec.fill_color,
        apply_exif_orientation=settings.apply_exif_orientation,
        quality=settings.quality,
        allow_truncated=settings.allow_truncated,
        background=settings.background,
        limits=DecodeLimits(settings.max_bytes, settings.max_pixels, settings.decode_timeout_s),
    )
