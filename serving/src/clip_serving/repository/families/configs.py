"""Parts of a ModelConfig that the families' configs share.

Configs go through Triton's own ModelConfig protobuf, so a misspelled field or a wrong type fails here and
not when the server loads the model.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import json_format
from tritonclient.grpc import model_config_pb2 as pb

from clip_serving import defaults
from clip_serving.errors import ConfigurationError

TORCHSCRIPT_OUTPUT = "embedding__0"
"""Triton's PyTorch backend requires `__<index>` in the names of outputs."""


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


def max_inflight_requests(max_queue_size: int, in_instances: int) -> int:
    """The most requests at one step of an ensemble, which bounds those that wait for the encoder.

    It exceeds what the first step can hold (its queue, and the requests `in_instances`), so overload is still
    rejected there: Triton does not reject a request above this limit, it blocks a thread. 0 is no limit.
    """
    if max_queue_size == 0:
        return 0
    return max(defaults.LEAST_INFLIGHT_REQUESTS, max_queue_size + in_instances)


def cpu_ensemble(config: pb.ModelConfig) -> pb.ModelConfig:
    """A copy without the field that the embedded server's release, 24.10, rejects as unknown."""
    found = pb.ModelConfig()
    found.CopyFrom(config)
    found.ensemble_scheduling.ClearField("max_inflight_requests")
    return found


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
