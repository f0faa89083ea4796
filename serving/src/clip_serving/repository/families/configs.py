"""Parts of a ModelConfig that the families' configs share.

Configs go through Triton's own ModelConfig protobuf, so a misspelled field or a wrong type fails here and
not when the server loads the model.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import json_format
from tritonclient.grpc import model_config_pb2 as pb

from clip_serving.errors import ConfigurationError


def model_config(fields: dict[str, Any]) -> pb.ModelConfig:
    """Raises ConfigurationError for a field or a value that Triton does not have."""
    try:
        return json_format.ParseDict(fields, pb.ModelConfig())
    except json_format.ParseError as error:
        raise ConfigurationError(f"Triton has no such model setting: {error}") from error


def parameters(values: dict[str, object]) -> dict[str, Any]:
    """The `parameters` of a config; all values become strings."""
    return {key: {"string_value": _plain(value)} for key, value in values.items()}


def tensor(name: str, data_type: str, dims: list[int]) -> dict[str, Any]:
    return {"name": name, "data_type": data_type, "dims": dims}


def version_policy(version: int | None) -> dict[str, Any]:
    """Serves one version; None serves the newest."""
    return {"latest": {"num_versions": 1}} if version is None else {"specific": {"versions": [version]}}


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
