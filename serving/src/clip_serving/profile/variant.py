"""A repository as one setting wants it: configs changed, versions linked, the user's own untouched."""

from __future__ import annotations

from pathlib import Path

from tritonclient.grpc import model_config_pb2 as pb

from clip_serving import defaults, runtime
from clip_serving.errors import ConfigurationError, ProfileError
from clip_serving.profile.setting import Setting
from clip_serving.staging import copy_repository, read_config


def make_variant(source: Path, target: Path, setting: Setting) -> None:
    """Fills the empty folder `target`; TritonServer then fits instances and threads in its own copy.

    Raises ConfigurationError where `source` lacks a model, or the encoder of the setting's format.
    """
    _encoder_config(source, setting.model_config_name)
    copy_repository(source, target, lambda config: _set_batching(config, setting))


def require_servable(source: Path, model_config_name: str) -> None:
    """Raises ProfileError for a format whose backend the embedded server has not.

    ConfigurationError where `source` lacks it, ServerError where there is no embedded server.
    """
    config = read_config(_encoder_config(source, model_config_name))
    backend = config.backend or config.platform
    if not (runtime.prepare().backends / backend).is_dir():
        raise ProfileError(
            f"the format {model_config_name!r} needs Triton's {backend} backend, and the embedded server has "
            "only python's: serve it with the image, and sweep that server with --url"
        )


def _encoder_config(source: Path, model_config_name: str) -> Path:
    """The file of a format; empty is each model's config.pbtxt. Raises ConfigurationError."""
    folder = source / defaults.ENCODER
    path = folder / "configs" / f"{model_config_name}.pbtxt" if model_config_name else folder / "config.pbtxt"
    if not path.is_file():
        raise ConfigurationError(f"{source} has no encoder configuration {model_config_name!r}")
    return path


def _set_batching(config: pb.ModelConfig, setting: Setting) -> None:
    config.max_batch_size = setting.max_batch
    if not config.HasField("dynamic_batching"):  # to ask an ensemble for it would give it one
        return
    encoder = config.name == defaults.ENCODER
    # As they are rendered, so that what is measured is what --apply writes, whatever it wrote before.
    sizes = [size for size in defaults.PREFERRED_BATCH_SIZES if size <= setting.max_batch]
    first = min(defaults.PREPROCESS_PREFERRED_BATCH_SIZE, setting.max_batch)
    config.dynamic_batching.preferred_batch_size[:] = sizes if encoder else [first]
    if not encoder:
        return
    config.dynamic_batching.max_queue_delay_microseconds = setting.queue_delay_us
    warmups = [warmup for warmup in config.model_warmup if warmup.batch_size <= setting.max_batch]
    del config.model_warmup[:]
    config.model_warmup.extend(warmups)
