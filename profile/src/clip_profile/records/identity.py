"""Which model is served, and with which configs: a run folder holds the figures of one of them only."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tritonclient.grpc import InferenceServerClient

from clip_profile.observe.server_stats import read_configs
from clip_serving import defaults
from clip_serving.repository.deployment import Deployment
from clip_serving.repository.families.image import IMAGE
from clip_serving.repository.render import render
from clip_serving.repository.spec import SPEC_FILE, ModelSpec
from clip_serving.repository.versions import served_version

PIXEL_BYTES = 224 * 224 * 3
"""Of most models. Runs of earlier versions do not say."""
_MODELS = (defaults.ENSEMBLE, defaults.PREPROCESS, defaults.ENCODER)


@dataclass(frozen=True)
class Identity:
    """`configs` is a digest of the repository's rendered configs, before a sweep changes its own copy."""

    model: str
    configs: str
    weights_sha256: str
    encoder_version: str
    pixel_bytes: int
    """Of one photo on its way to the encoder."""

    def served(self) -> dict[str, str]:
        """What a run folder keeps beside the model's name."""
        return {name: value for name, value in vars(self).items() if name not in ("model", "pixel_bytes")}


def of_repository(repository: Path) -> Identity:
    """Of the encoder version that the embedded server serves. Raises ConfigurationError."""
    version = served_version(repository)
    spec = ModelSpec.load(version / SPEC_FILE)
    rendered = render(Deployment.load(repository), {IMAGE.name: spec})
    configs = _digest(part.encode() for item in sorted(rendered.items()) for part in item)
    pixels = 3 * math.prod(spec.image_size)
    return Identity(_name(spec.model, spec.pretrained), configs, spec.weights_sha256, version.name, pixels)


def of_server(client: InferenceServerClient, parameters: Mapping[str, str]) -> Identity:
    """Of a running server; `parameters` are those of its ensemble. Raises ServerError."""
    configs = read_configs(client, _MODELS)
    digest = _digest(config.SerializeToString(deterministic=True) for config in configs)
    name = _name(parameters.get("model", "?"), parameters.get("pretrained", "?"))
    return Identity(
        name,
        digest,
        parameters.get("weights_sha256", "?"),
        parameters.get("encoder_version", "?"),
        3 * math.prod(map(int, parameters.get("image_size", "224x224").split("x"))),
    )


def _name(model: str, pretrained: str) -> str:
    return f"{model} ({pretrained})"


def _digest(parts: Iterable[bytes]) -> str:
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()
