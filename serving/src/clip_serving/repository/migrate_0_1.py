"""Reads the settings of a repository that clip-export 0.1 made, which kept them in its config.pbtxt files.

This is the only place where a config.pbtxt is read back into settings. It runs once for a repository: the
result becomes its deployment.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from clip_serving import defaults
from clip_serving.errors import ConfigurationError
from clip_serving.repository.families.image.settings import ImageSettings
from clip_serving.repository.settings import table

_PARAMETERS = {
    "preprocess": {
        "threads": "preprocess_threads",
        "quality": "quality",
        "apply_exif_orientation": "apply_exif_orientation",
        "allow_truncated": "allow_truncated",
        "max_bytes": "max_bytes",
        "max_pixels": "max_pixels",
        "decode_timeout_s": "decode_timeout_s",
    },
    "encoder": {"threads": "encoder_threads", "precision": "encoder_precision"},
}
"""By model, the parameters that hold settings, and the settings."""


def applies_to(repository: Path) -> bool:
    """Whether the repository holds rendered configs; deployment.json, which is newer, comes first."""
    return (repository / defaults.ENSEMBLE / "config.pbtxt").is_file()


def read_settings(repository: Path) -> ImageSettings:
    """The settings in the configs; one that is missing there is the default.

    Raises ConfigurationError that names the file that is missing or holds a value that is not allowed.
    """
    ensemble = _read(repository / defaults.ENSEMBLE / "config.pbtxt")
    preprocess_path = repository / defaults.PREPROCESS / "config.pbtxt"
    encoder_path = repository / defaults.ENCODER / "configs" / "cpu.pbtxt"
    preprocess, encoder = _read(preprocess_path), _read(encoder_path)
    # The pinned version is that of the config which production serves.
    policy = _read(repository / defaults.ENCODER / "config.pbtxt").version_policy
    of_preprocess = {
        **_from_parameters(preprocess, _PARAMETERS["preprocess"], preprocess_path),
        "preprocess_instances": _instances(preprocess, preprocess_path),
        "max_queue_size": preprocess.dynamic_batching.default_queue_policy.max_queue_size,
    }
    of_encoder = {
        **_from_parameters(encoder, _PARAMETERS["encoder"], encoder_path),
        "encoder_instances": _instances(encoder, encoder_path),
        "preferred_batch_sizes": tuple(encoder.dynamic_batching.preferred_batch_size),
        "max_queue_delay_us": encoder.dynamic_batching.max_queue_delay_microseconds,
        "encoder_version": max(policy.specific.versions, default=None),
    }
    return ImageSettings(max_batch_size=ensemble.max_batch_size, **of_preprocess, **of_encoder)


def _from_parameters(config: pb.ModelConfig, names: Mapping[str, str], path: Path) -> dict[str, Any]:
    lines = {line.name: line for line in table(ImageSettings)}
    found: dict[str, Any] = {}
    for parameter, name in names.items():
        if parameter in config.parameters:
            text = config.parameters[parameter].string_value
            values = lines[name].values
            try:
                found[name] = values.accept(values.parse(text))
            except ValueError:
                raise ConfigurationError(
                    f"{path}: the parameter {parameter} is {text!r}. Allowed: {values.allowed}"
                ) from None
    return found


def _instances(config: pb.ModelConfig, path: Path) -> int:
    if not config.instance_group:
        raise ConfigurationError(f"{path} has no instance_group")
    count: int = config.instance_group[0].count
    return count


def _read(path: Path) -> pb.ModelConfig:
    try:
        return text_format.Parse(path.read_text(encoding="utf-8"), pb.ModelConfig())
    except (text_format.ParseError, UnicodeDecodeError, OSError) as error:
        raise ConfigurationError(f"{path}: {error}") from error
