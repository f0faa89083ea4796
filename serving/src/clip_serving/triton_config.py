"""Reads what Triton hands to a Python model about its own configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def parameters_of(model_config: Mapping[str, Any]) -> dict[str, str]:
    """The config's `parameters` as plain strings."""
    return {key: value["string_value"] for key, value in model_config.get("parameters", {}).items()}
