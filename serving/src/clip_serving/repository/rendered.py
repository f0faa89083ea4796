"""Reads back what a repository's configs were rendered from: the spec, the settings, the version."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tritonclient.grpc import model_config_pb2 as pb

from clip_preprocess.errors import SettingsError
from clip_preprocess.settings import PreprocessSettings, one_of
from clip_serving import defaults
from clip_serving.defaults import EncoderPrecision
from clip_serving.errors import ConfigurationError
from clip_serving.repository.deployment import DeploymentSettings
from clip_serving.repository.spec import SPEC_FILE, ModelSpec
from clip_serving.repository.stage import pinned_version, read_config, served_version


@dataclass(frozen=True)
class Rendered:
    """What a repository's configs were rendered from; `encoder_version` None serves the newest."""

    spec: ModelSpec
    deployment: DeploymentSettings
    encoder_version: int | None


def read_rendered(repository: Path) -> Rendered:
    """Raises ConfigurationError for what is no rendered repository."""
    deployment = read_deployment(repository)
    spec = ModelSpec.load(served_version(repository) / SPEC_FILE)
    return Rendered(spec, deployment, pinned_version(repository))


def read_deployment(repository: Path) -> DeploymentSettings:
    """The settings that the configs hold; a parameter that another release did not write is the default.

    Raises ConfigurationError that names the file which is missing or holds what cannot be.
    """
    ensemble = read_config(repository / defaults.ENSEMBLE / "config.pbtxt")
    settings = replace(DeploymentSettings(), max_batch_size=ensemble.max_batch_size)
    settings = _with_preprocess(settings, repository / defaults.PREPROCESS / "config.pbtxt")
    return _with_encoder(settings, repository / defaults.ENCODER / "configs" / "cpu.pbtxt")


def _with_preprocess(settings: DeploymentSettings, path: Path) -> DeploymentSettings:
    config = read_config(path)
    usual = PreprocessSettings((1, 1), quality=settings.quality).to_parameters()
    parameters = {**usual, "threads": str(settings.preprocess_threads), **_parameters(config)}
    with _naming(path):
        pixels = PreprocessSettings.from_parameters(parameters)
        return replace(
            settings,
            preprocess_instances=config.instance_group[0].count,
            preprocess_threads=int(parameters["threads"]),
            apply_exif_orientation=pixels.apply_exif_orientation,
            quality=pixels.quality,
            allow_truncated=pixels.allow_truncated,
            limits=pixels.limits,
            max_queue_size=config.dynamic_batching.default_queue_policy.max_queue_size,
        )


def _with_encoder(settings: DeploymentSettings, path: Path) -> DeploymentSettings:
    config = read_config(path)
    usual = {"threads": str(settings.encoder_threads), "precision": settings.encoder_precision}
    parameters = {**usual, **_parameters(config)}
    with _naming(path):
        return replace(
            settings,
            encoder_instances=config.instance_group[0].count,
            encoder_threads=int(parameters["threads"]),
            encoder_precision=one_of(EncoderPrecision, parameters["precision"]),
            preferred_batch_sizes=tuple(config.dynamic_batching.preferred_batch_size),
            max_queue_delay_us=config.dynamic_batching.max_queue_delay_microseconds,
        )


def _parameters(config: pb.ModelConfig) -> dict[str, str]:
    return {name: value.string_value for name, value in config.parameters.items()}


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except (ConfigurationError, SettingsError, ValueError, IndexError) as error:
        raise ConfigurationError(f"{path}: {error}") from error
