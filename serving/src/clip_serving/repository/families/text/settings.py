"""The operator's settings of the text family: the `text` section of deployment.json."""

from __future__ import annotations

from dataclasses import dataclass

from clip_serving import defaults
from clip_serving.repository.settings import FamilySettings, WholeNumber, setting


@dataclass(frozen=True)
class TextSettings(FamilySettings):
    """Settings of clip_text, clip_text_tokenize and clip_text_encoder."""

    max_batch_size: int = setting(
        defaults.MAX_BATCH_SIZE,
        "max_batch_size",
        "largest batch of all three models; a request with more texts is rejected",
        WholeNumber(),
    )
    tokenize_instances: int = setting(
        defaults.TOKENIZE_INSTANCES, "tokenize.instances", "processes that tokenize texts", WholeNumber()
    )
    max_queue_size: int = setting(
        defaults.MAX_QUEUE_SIZE,
        "tokenize.max_queue_size",
        "requests that may wait; one more is rejected and the client retries; 0 means no limit",
        WholeNumber(minimum=0),
    )
    max_bytes: int = setting(
        defaults.MAX_TEXT_BYTES, "tokenize.max_bytes", "longest text, in bytes of UTF-8", WholeNumber()
    )
    encoder_instances: int = setting(
        defaults.ENCODER_INSTANCES, "encoder.instances", "instances of the encoder", WholeNumber()
    )
    encoder_threads: int = setting(
        defaults.ENCODER_THREADS, "encoder.threads", "threads of each CPU encoder instance", WholeNumber()
    )
    max_queue_delay_us: int = setting(
        defaults.MAX_QUEUE_DELAY_US,
        "encoder.max_queue_delay_us",
        "longest wait for a fuller batch at the encoder, in microseconds",
        WholeNumber(minimum=0),
    )
    encoder_version: int | None = setting(
        None,
        "encoder.version",
        "exported version to serve; null serves the newest",
        WholeNumber(optional=True),
        flag="activate",
    )
