"""A repository as one setting wants it: configs changed, versions linked, the user's own untouched."""

from __future__ import annotations

from pathlib import Path

from tritonclient.grpc import model_config_pb2 as pb

from clip_profile.records.setting import Setting
from clip_serving import defaults
from clip_serving.repository.render import encoder_batches, preprocess_batches
from clip_serving.repository.stage import copy_repository, encoder_config, refuse_other_backends
from clip_serving.server import runtime


def make_variant(source: Path, target: Path, setting: Setting) -> None:
    """Fills the empty folder `target`; TritonServer then fits instances and threads in its own copy.

    Raises ConfigurationError where `source` lacks a model, or the encoder of the setting's format.
    """
    encoder_config(source, setting.model_config_name)
    copy_repository(source, target, lambda config: _set_batching(config, setting))


def require_servable(source: Path, model_config_name: str) -> None:
    """Raises ConfigurationError for a format that `source` lacks, or whose backend the server here lacks.

    ServerError where there is no embedded server.
    """
    backends = [entry.name for entry in runtime.prepare().backends.iterdir()]
    refuse_other_backends(source, model_config_name, backends)


def _set_batching(config: pb.ModelConfig, setting: Setting) -> None:
    config.max_batch_size = setting.max_batch
    if not config.HasField("dynamic_batching"):  # to ask an ensemble for it would give it one
        return
    # As they are rendered, so that what is measured is what --apply writes, whatever it wrote before.
    batching = config.dynamic_batching
    if config.name != defaults.ENCODER:
        batching.preferred_batch_size[:] = preprocess_batches(setting.max_batch)
        return
    batching.preferred_batch_size[:] = encoder_batches(defaults.PREFERRED_BATCH_SIZES, setting.max_batch)
    batching.max_queue_delay_microseconds = setting.queue_delay_us
    warmups = [warmup for warmup in config.model_warmup if warmup.batch_size <= setting.max_batch]
    del config.model_warmup[:]
    config.model_warmup.extend(warmups)
