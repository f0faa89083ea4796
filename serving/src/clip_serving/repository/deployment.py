"""Settings of a deployment, apart from what is true of the model: they are rendered beside the spec."""

from __future__ import annotations

from dataclasses import dataclass, field

from clip_preprocess.settings import DecodeLimits, PreprocessSettings, Quality
from clip_serving import defaults
from clip_serving.defaults import EncoderPrecision
from clip_serving.repository.spec import ModelSpec


@dataclass(frozen=True)
class DeploymentSettings:
    """How many instances of what, and how they batch. Counts are per model, times in microseconds."""

    preprocess_instances: int = defaults.PREPROCESS_INSTANCES
    preprocess_threads: int = defaults.PREPROCESS_THREADS
    encoder_instances: int = defaults.ENCODER_INSTANCES
    encoder_threads: int = defaults.ENCODER_THREADS
    encoder_precision: EncoderPrecision = defaults.ENCODER_PRECISION
    """A CPU encoder's."""
    max_batch_size: int = defaults.MAX_BATCH_SIZE
    preferred_batch_sizes: tuple[int, ...] = defaults.PREFERRED_BATCH_SIZES
    max_queue_delay_us: int = defaults.MAX_QUEUE_DELAY_US
    apply_exif_orientation: bool = True
    quality: Quality = defaults.QUALITY
    allow_truncated: bool = False
    limits: DecodeLimits = field(default_factory=DecodeLimits)
    max_queue_size: int = defaults.MAX_QUEUE_SIZE


def preprocess_settings(spec: ModelSpec, deployment: DeploymentSettings) -> PreprocessSettings:
    """The settings of clip_image_preprocess: the model's pixels within the deployment's limits."""
    return PreprocessSettings(
        image_size=spec.image_size,
        interpolation=spec.interpolation,
        resize_mode=spec.resize_mode,
        fill_color=spec.fill_color,
        apply_exif_orientation=deployment.apply_exif_orientation,
        quality=deployment.quality,
        allow_truncated=deployment.allow_truncated,
        limits=deployment.limits,
    )
