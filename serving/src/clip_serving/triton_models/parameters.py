"""Reads the configuration that Triton passes to a Python model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clip_serving.errors import ConfigurationError


class Parameters(dict[str, str]):
    """The config's `parameters`; a missing one raises ConfigurationError."""

    def __missing__(self, name: str) -> str:
        raise ConfigurationError(
            f"the model's config lacks the parameter {name!r}: another release rendered it. "
            "Render it again with: clip-render --repository DIR"
        )


def parameters_of(model_config: Mapping[str, Any]) -> Parameters:
    """The config's `parameters` as plain strings."""
    return Parameters(
        {key: value["string_value"] for key, value in model_config.get("parameters", {}).items()}
    )


def ensemble_of(args: Mapping[str, str]) -> str:
    """The ensemble that this model is a step of: clip_image, or clip_image_large of `--name large`."""
    return args["model_name"].rpartition("_")[0]
