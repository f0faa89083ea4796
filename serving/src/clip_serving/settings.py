"""Settings of a deployment, apart from what is true of the model: they are rendered beside the spec."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from clip_serving import defaults
from clip_serving.defaults import EncoderPrecision
from clip_serving.defaults import Quality as Quality
from clip_serving.errors import ConfigurationError
from clip_serving.spec import Interpolation, ModelSpec, ResizeMode


@dataclass(frozen=True)
class DecodeLimits:
    """What is refused from the header, before any pixel is decoded, and what is given up for its time."""

    max_bytes: int = defaults.MAX_BYTES
    max_pixels: int = defaults.MAX_PIXELS
    decode_timeout_s: float = defaults.DECODE_TIMEOUT_S


@dataclass(frozen=True)
class PreprocessSettings:
    """What clip_image_preprocess needs to make pixels; travels as parameters of its config.pbtxt."""

    image_size: tuple[int, int]
    interpolation: Interpolation = "bicubic"
    resize_mode: ResizeMode = "shortest"
    fill_color: int = 0
    apply_exif_orientation: bool = True
    limits: DecodeLimits = field(default_factory=DecodeLimits)
    quality: Quality = "exact"
    allow_truncated: bool = False
    """Whether a photo whose data ends early gives pixels, with an ItemError marked `partial`."""

    @classmethod
    def of(cls, spec: ModelSpec, deployment: DeploymentSettings) -> PreprocessSettings:
        return cls(
            image_size=spec.image_size,
            interpolation=spec.interpolation,
            resize_mode=spec.resize_mode,
            fill_color=spec.fill_color,
            apply_exif_orientation=deployment.apply_exif_orientation,
            quality=deployment.quality,
            allow_truncated=deployment.allow_truncated,
            limits=deployment.limits,
        )

    def to_parameters(self) -> dict[str, str]:
        """The flat `parameters` of config.pbtxt; from_parameters() is its inverse."""
        height, width = self.image_size
        return {
            "image_height": str(height),
            "image_width": str(width),
            "interpolation": self.interpolation,
            "resize_mode": self.resize_mode,
            "fill_color": str(self.fill_color),
            "apply_exif_orientation": str(self.apply_exif_orientation).lower(),
            "max_bytes": str(self.limits.max_bytes),
            "max_pixels": str(self.limits.max_pixels),
            "decode_timeout_s": str(self.limits.decode_timeout_s),
            "quality": self.quality,
            "allow_truncated": str(self.allow_truncated).lower(),
        }

    @classmethod
    def from_parameters(cls, values: Mapping[str, str]) -> PreprocessSettings:
        """Raises ConfigurationError where a parameter is missing or is not what it should be."""
        try:
            return cls(
                image_size=(int(values["image_height"]), int(values["image_width"])),
                interpolation=one_of(Interpolation, values["interpolation"]),
                resize_mode=one_of(ResizeMode, values["resize_mode"]),
                fill_color=int(values["fill_color"]),
                apply_exif_orientation=values["apply_exif_orientation"] == "true",
                limits=DecodeLimits(
                    max_bytes=int(values["max_bytes"]),
                    max_pixels=int(values["max_pixels"]),
                    decode_timeout_s=float(values["decode_timeout_s"]),
                ),
                quality=one_of(Quality, values["quality"]),
                allow_truncated=values["allow_truncated"] == "true",
            )
        except KeyError as error:
            raise ConfigurationError(f"the model's config lacks the parameter {error}") from error
        except ValueError as error:
            raise ConfigurationError(f"a parameter of the model's config is off: {error}") from error


def one_of(choices: Any, value: str) -> Any:
    """`value` if it is one of the Literal `choices`; raises ValueError otherwise."""
    if value not in get_args(choices):
        raise ValueError(f"{value!r} is not one of {', '.join(get_args(choices))}")
    return value


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
