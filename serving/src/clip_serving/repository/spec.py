"""ModelSpec: the one home of everything that is true of an exported model.

Made by clip-export from open_clip's own configuration, stored as `spec.json` beside the model's
files, and the source of every rendered config.pbtxt.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from clip_preprocess.settings import Interpolation, ResizeMode
from clip_serving.errors import ConfigurationError

SPEC_VERSION = 1
SPEC_FILE = "spec.json"


@dataclass(frozen=True)
class ModelSpec:
    """An image tower and the pixels that it wants.

    `image_size` is (height, width) in pixels. `mean` and `std` are per RGB channel, of pixels in
    0..1. `resize_mode` is open_clip's: `shortest` resizes the short side and crops the centre,
    `squash` ignores the aspect ratio, `longest` fits the whole picture and pads with `fill_color`.
    `weights_sha256` is the digest of the weights as loaded (see clip_export.load); empty in the
    spec of a model that has not been exported yet.
    """

    model: str
    pretrained: str
    image_size: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: Interpolation
    resize_mode: ResizeMode
    fill_color: int
    embedding_dim: int
    random_weights: bool = False
    weights_sha256: str = ""
    tool_versions: dict[str, str] = field(default_factory=dict)
    reference_image: str = ""
    """base64 of a small JPEG that every server of this model can be asked to embed."""
    reference_embedding: str = ""
    """base64 of its embedding by open_clip itself: little-endian float32 [embedding_dim]."""
    min_cosine: dict[str, float] = field(default_factory=dict)
    """By precision, the least cosine to open_clip's embeddings that the export saw on its pictures.

    It is there for an int8 graph that was refused, too. Empty in specs of before there was any.
    """
    spec_version: int = SPEC_VERSION

    def __post_init__(self) -> None:
        if self.interpolation not in get_args(Interpolation):
            raise ConfigurationError(
                f"interpolation {self.interpolation!r} is not one of {get_args(Interpolation)}"
            )
        if self.resize_mode not in get_args(ResizeMode):
            raise ConfigurationError(f"resize mode {self.resize_mode!r} is not one of {get_args(ResizeMode)}")
        if min(self.image_size) < 1 or self.embedding_dim < 1:
            raise ConfigurationError("image_size and embedding_dim must be positive")

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> ModelSpec:
        """Raises ConfigurationError for a spec of another version or with unknown or missing keys."""
        try:
            values: dict[str, Any] = json.loads(text)
        except json.JSONDecodeError as error:
            raise ConfigurationError(f"the model spec is not JSON: {error}") from error
        if not isinstance(values, dict) or values.get("spec_version") != SPEC_VERSION:
            raise ConfigurationError(
                f"the model spec is not of version {SPEC_VERSION}: export the model again"
            )
        for name in ("image_size", "mean", "std"):
            values[name] = tuple(values.get(name, ()))
        try:
            return cls(**values)
        except TypeError as error:
            raise ConfigurationError(f"the model spec does not fit: {error}") from error

    @classmethod
    def load(cls, path: Path) -> ModelSpec:
        """Reads `path`; raises ConfigurationError that names the file."""
        try:
            return cls.from_json(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigurationError(f"cannot read the model spec {path}: {error.strerror}") from error
        except ConfigurationError as error:
            raise ConfigurationError(f"{path}: {error}") from error
