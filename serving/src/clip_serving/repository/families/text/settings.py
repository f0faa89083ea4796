"""The operator's settings of the text family: the `text` section of deployment.json."""

from __future__ import annotations

from dataclasses import dataclass

from clip_serving import defaults
from clip_serving.repository.families import shared_settings
from clip_serving.repository.settings import FamilySettings, WholeNumber, setting


@dataclass(frozen=True)
class TextSettings(FamilySettings):
    """Settings of clip_text, clip_text_tokenize and clip_text_encoder."""

    max_batch_size: int = shared_settings.max_batch_size("texts")
    tokenize_instances: int = setting(
        defaults.TOKENIZE_INSTANCES, "tokenize.instances", "processes that tokenize texts", WholeNumber()
    )
    max_queue_size: int = shared_settings.max_queue_size("tokenize")
    max_bytes: int = setting(
        defaults.MAX_TEXT_BYTES, "tokenize.max_bytes", "longest text, in bytes of UTF-8", WholeNumber()
    )
    encoder_instances: int = shared_settings.encoder_instances()
    encoder_threads: int = shared_settings.encoder_threads()
    max_queue_delay_us: int = shared_settings.max_queue_delay_us()
    encoder_version: int | None = shared_settings.encoder_version()
