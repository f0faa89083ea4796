"""The settings of the pixel pipeline: the requested pixels, and the limits for each photo."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from clip_preprocess import background, defaults
from clip_preprocess.errors import SettingsError

PIXELS_VERSION = 1
"""The version of the pixels. It increases only in a release in which the same photo, with the same settings,
has other pixels, so that two machines can tell whether they compute the same ones."""
Interpolation = Literal["bicubic", "bilinear", "nearest"]
ResizeMode = Literal["shortest", "squash", "longest"]
Quality = Literal["exact", "high", "fast"]
"""How close pixels are to open_clip's. `exact` is bit for bit. `high` and `fast` decode a JPEG at a reduced
scale that keeps at least 3 or 2 times the resized size, and resize the crop alone, vectorized if the `fast`
extra is installed: 0.2 to 0.3 levels off on average."""


@dataclass(frozen=True)
class DecodeLimits:
    """Limits that are checked on a photo's header before any pixel is decoded, and its longest time."""

    max_bytes: int = defaults.MAX_BYTES
    max_pixels: int = defaults.MAX_PIXELS
    decode_timeout_s: float = defaults.DECODE_TIMEOUT_S


@dataclass(frozen=True)
class PreprocessSettings:
    """All settings of the pixel pipeline. `image_size` is (height, width) in pixels.

    `resize_mode` is open_clip's: `shortest` resizes the short side and crops the center, `squash` ignores
    the aspect ratio, `longest` fits the whole picture and pads with `fill_color`.
    """

    image_size: tuple[int, int]
    interpolation: Interpolation = "bicubic"
    resize_mode: ResizeMode = "shortest"
    fill_color: int = 0
    apply_exif_orientation: bool = True
    limits: DecodeLimits = field(default_factory=DecodeLimits)
    quality: Quality = "exact"
    allow_truncated: bool = False
    """Whether a photo whose data ends early has pixels, with the notice `truncated`."""
    background: str = background.NONE
    """The color behind a picture with transparency, such as "#ffffff". "none" ignores transparency, as
    open_clip does."""

    def __post_init__(self) -> None:
        """Raises SettingsError: a wrong value would otherwise fail each photo as an internal error."""
        try:
            height, width = self.image_size
            if min(height, width) < 1:
                raise ValueError(f"image_size is {height} x {width}, and must be at least 1 x 1")
            one_of(Interpolation, self.interpolation)
            one_of(ResizeMode, self.resize_mode)
            one_of(Quality, self.quality)
            object.__setattr__(self, "background", background.normalized(self.background))
        except (TypeError, ValueError) as error:
            raise SettingsError(f"unsupported setting: {error}") from error

    @classmethod
    def from_open_clip(cls, config: Mapping[str, Any], **overrides: Any) -> PreprocessSettings:
        """From open_clip's preprocess config (`model.visual.preprocess_cfg`), with its defaults.

        `overrides` are fields of this class. Raises SettingsError for a value that is not supported.
        """
        size, fill = config.get("size", 224), config.get("fill_color", 0)
        try:
            height, width = (size, size) if isinstance(size, int) else size
            return cls(
                image_size=(height, width),
                interpolation=one_of(Interpolation, config.get("interpolation", "bicubic")),
                resize_mode=one_of(ResizeMode, config.get("resize_mode", "shortest")),
                fill_color=int(fill if isinstance(fill, int) else fill[0]),
                **overrides,
            )
        except (TypeError, ValueError, IndexError) as error:
            raise SettingsError(f"open_clip's preprocess config is not supported: {error}") from error

    def to_parameters(self) -> dict[str, str]:
        """A flat mapping of strings, as a Triton config's `parameters`. Inverse: from_parameters()."""
        height, width = self.image_size
        flat = {"image_height": height, "image_width": width, **vars(self), **vars(self.limits)}
        return {
            name: str(value).lower() for name, value in flat.items() if name not in ("image_size", "limits")
        }

    @classmethod
    def from_parameters(cls, values: Mapping[str, str]) -> PreprocessSettings:
        """Raises SettingsError if a parameter is missing or has an invalid value."""
        try:
            return cls(
                image_size=(int(values["image_height"]), int(values["image_width"])),
                interpolation=one_of(Interpolation, values["interpolation"]),
                resize_mode=one_of(ResizeMode, values["resize_mode"]),
                fill_color=int(values["fill_color"]),
                apply_exif_orientation=values["apply_exif_orientation"] == "true",
                limits=DecodeLimits(
                    int(values["max_bytes"]), int(values["max_pixels"]), float(values["decode_timeout_s"])
                ),
                quality=one_of(Quality, values["quality"]),
                allow_truncated=values["allow_truncated"] == "true",
                # Configs of release 0.1 lack it.
                background=values.get("background", background.NONE),
            )
        except KeyError as error:
            raise SettingsError(f"parameter {error} is missing") from error
        except ValueError as error:
            raise SettingsError(f"a parameter is invalid: {error}") from error


def one_of(choices: Any, value: str) -> Any:
    """`value` if it is one of the Literal `choices`; raises ValueError otherwise."""
    if value not in get_args(choices):
        raise ValueError(f"{value!r} is not one of {', '.join(get_args(choices))}")
    return value
