"""A repository as one setting wants it: configs changed, versions linked, the user's own untouched."""

from __future__ import annotations

from pathlib import Path

from tritonclient.grpc import model_config_pb2 as pb

from clip_serving import defaults
from clip_serving.errors import ConfigurationError
from clip_serving.profile.setting import Setting
from clip_serving.staging import copy_repository


def make_variant(source: Path, target: Path, setting: Setting) -> None:
    """Fills the empty folder `target`; TritonServer then fits instances and threads in its own copy.

    Raises ConfigurationError where `source` lacks a model, or the encoder of the setting's format.
    """
    wanted = source / defaults.ENCODER / "configs" / f"{setting.model_config_name}.pbtxt"
    if setting.model_config_name and not wanted.is_file():
        raise ConfigurationError(f"{source} has no encoder configuration {setting.model_config_name!r}")
    copy_repository(source, target, lambda config: _set_batching(config, setting))


def _set_batching(config: pb.ModelConfig, setting: Setting) -> None:
    config.max_batch_size = setting.max_batch
    if not config.HasField("dynamic_batching"):  # to ask an ensemble for it would give it one
        return
    preferred = config.dynamic_batching.preferred_batch_size
    fitting = sorted({min(size, setting.max_batch) for size in preferred})
    del preferred[:]
    preferred.extend(fitting)
    if config.name != defaults.ENCODER:
        return
    config.dynamic_batching.max_queue_delay_microseconds = setting.queue_delay_us
    warmups = [warmup for warmup in config.model_warmup if warmup.batch_size <= setting.max_batch]
    del config.model_warmup[:]
    config.model_warmup.extend(warmups)
