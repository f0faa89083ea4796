"""Model specs: the only home of the facts about an exported model.

clip-export writes a spec as `spec.json` into each version directory, from open_clip's own configuration.
Together with deployment.json it is the only input of the rendered config.pbtxt files.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_args

from clip_preprocess.settings import Interpolation, ResizeMode
from clip_serving import defaults
from clip_serving.defaults import Clean
from clip_serving.errors import ConfigurationError

SPEC_VERSION = 1
SPEC_FILE = "spec.json"

T = TypeVar("T", bound="TowerSpec")


@dataclass(frozen=True, kw_only=True)
class TowerSpec:
    """The facts about an exported tower of any family.

    `weights_sha256` is the digest of the weights as loaded (see clip_export.load); it is empty in the
    spec of a model that has not been exported yet.
    """

    model: str
    pretrained: str
    embedding_dim: int
    random_weights: bool = False
    weights_sha256: str = ""
    tool_versions: dict[str, str] = field(default_factory=dict)
    min_cosine: dict[str, float] = field(default_factory=dict)
    """Least cosine to open_clip's embeddings, by precision, that the export measured on its pictures.

    It includes an int8 graph that was measured and not published. Specs of early exports have none.
    """
    activation: str = ""
    """The tower's activation functions: `gelu`, `quick_gelu`, ..., joined by `+`.

    A state dict does not tell them apart, so equal weights can belong to different models. Empty if unknown,
    as in specs of early exports.
    """
    artifacts: dict[str, dict[str, str | int]] = field(default_factory=dict)
    """By published file, its format: `opset` and `ir_version` of ONNX, or the `torch` that wrote TorchScript,
    and `oldest_triton`, the oldest release known to load it. Specs of early exports have none."""
    spec_version: int = SPEC_VERSION

    def __post_init__(self) -> None:
        if self.embedding_dim < 1:
            raise ConfigurationError("embedding_dim must be positive")

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls: type[T], text: str) -> T:
        """Raises ConfigurationError for another spec version, and for unknown or missing keys."""
        try:
            values: dict[str, Any] = json.loads(text)
        except ValueError as error:
            raise ConfigurationError(f"the model spec is not JSON: {error}") from error
        if not isinstance(values, dict) or values.get("spec_version") != SPEC_VERSION:
            raise ConfigurationError(
                f"the model spec has another version than {SPEC_VERSION}. Export the model again"
            )
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        try:
            return cls(**values)
        except TypeError as error:
            raise ConfigurationError(f"the model spec has missing or unknown keys: {error}") from error

    @classmethod
    def load(cls: type[T], path: Path) -> T:
        """Reads `path`; raises ConfigurationError that names the file."""
        try:
            return cls.from_json(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigurationError(f"cannot read the model spec {path}: {error.strerror}") from error
        except (ConfigurationError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"{path}: {error}") from error

    def require_int8(self) -> None:
        """Raises ConfigurationError if the export published no int8 graph; the text says why."""
        cosine, bound = self.min_cosine.get("int8"), defaults.MIN_COSINE["int8"]
        if cosine is None:
            raise ConfigurationError("this export was made without int8 (export the model again)")
        if cosine < bound:
            raise ConfigurationError(
                f"the export rejected int8: its cosine to fp32 was {cosine:.4f} on real photos, below {bound}"
            )


@dataclass(frozen=True, kw_only=True)
class ModelSpec(TowerSpec):
    """An image tower and the pixels that it expects.

    `image_size` is (height, width) in pixels. `mean` and `std` are per RGB channel, for pixels in 0..1.
    `resize_mode` is open_clip's: `shortest` resizes the short side and crops the center, `squash` ignores
    the aspect ratio, `longest` fits the whole picture and pads with `fill_color`.
    """

    image_size: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: Interpolation
    resize_mode: ResizeMode
    fill_color: int
    reference_image: str = ""
    """base64 of a small JPEG that every server of this model can be asked to embed."""
    reference_embedding: str = ""
    """base64 of its embedding by open_clip itself: little-endian float32 [embedding_dim]."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.interpolation not in get_args(Interpolation):
            raise ConfigurationError(
                f"interpolation {self.interpolation!r} is not one of {get_args(Interpolation)}"
            )
        if self.resize_mode not in get_args(ResizeMode):
            raise ConfigurationError(f"resize mode {self.resize_mode!r} is not one of {get_args(ResizeMode)}")
        if min(self.image_size) < 1:
            raise ConfigurationError("image_size must be positive")


@dataclass(frozen=True, kw_only=True)
class TextSpec(TowerSpec):
    """A text tower and the tokens that it expects.

    `clean` is how open_clip's tokenizer of this model normalizes a text. The similarity of a photo and a text
    is `logit_scale` times their cosine, plus `logit_bias`; zero-shot labels are the softmax (or, for a model
    with a bias, the sigmoid) of these.
    """

    context_length: int
    clean: Clean
    logit_scale: float
    logit_bias: float | None = None
    zeroed_token: int | None = None
    """A token id that becomes 0: open_clip's `strip_sep_token`."""
    reference_text: str = ""
    """A text that every server of this model can be asked to embed."""
    reference_embedding: str = ""
    """base64 of its embedding by open_clip itself: little-endian float32 [embedding_dim]."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.context_length < 3:
            raise ConfigurationError("context_length must be at least 3: a token between start and end")
        if self.clean not in get_args(Clean):
            raise ConfigurationError(f"clean {self.clean!r} is not one of {get_args(Clean)}")
