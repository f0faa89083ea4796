"""Settings of a deployment, apart from what is true of the model: they are rendered beside the spec."""

from __future__ import annotations

from dataclasses import dataclass, field

from clip_serving import defaults
from clip_serving.spec import Interpolation, ModelSpec, ResizeMode


@dataclass(frozen=True)
class DecodeLimits:
    """What is refused from the header, before any pixel is decoded."""

    max_bytes: int = defaults.MAX_BYTES
    max_pixels: int = defaults.MAX_PIXELS


@dataclass(frozen=True)
class PreprocessSettings:
    """What clip_image_preprocess needs to make pixels; travels as parameters of its config.pbtxt."""

    image_size: tuple[int, int]
    interpolation: Interpolation = "bicubic"
    resize_mode: ResizeMode = "shortest"
    fill_color: int = 0
    apply_exif_orientation: bool = True
    limits: DecodeLimits = field(default_factory=DecodeLimits)

    @classmethod
    def of(cls, spec: ModelSpec, *, apply_exif_orientation: bool = True) -> PreprocessSettings:
        return cls(
            image_size=spec.image_size,
            interpolation=spec.interpolation,
            resize_mode=spec.resize_mode,
            fill_color=spec.fill_color,
            apply_exif_orientation=apply_exif_orientation,
        )


@dataclass(frozen=True)
class DeploymentSettings:
    """How many instances of what, and how they batch. Counts are per model, times in microseconds."""

    preprocess_instances: int = defaults.PREPROCESS_INSTANCES
    encoder_instances: int = defaults.ENCODER_INSTANCES
    encoder_threads: int = 1
    """Intra-op threads of each CPU encoder instance."""
    max_batch_size: int = defaults.MAX_BATCH_SIZE
    preferred_batch_sizes: tuple[int, ...] = defaults.PREFERRED_BATCH_SIZES
    max_queue_delay_us: int = defaults.MAX_QUEUE_DELAY_US
    apply_exif_orientation: bool = True
