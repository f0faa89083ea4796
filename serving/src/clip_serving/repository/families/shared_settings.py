"""Settings that every family has: each function returns the dataclass field of one.

They are no base class, because its fields would come before the family's own in deployment.json.
"""

from __future__ import annotations

from typing import Any

from clip_serving import defaults
from clip_serving.repository.settings import WholeNumber, setting


def max_batch_size(items: str) -> Any:
    """`items`: what a request holds, in the plural."""
    text = f"largest batch of all three models; a request with more {items} is rejected"
    return setting(defaults.MAX_BATCH_SIZE, "max_batch_size", text, WholeNumber())


def max_queue_size(first: str) -> Any:
    """`first`: the section of the family's first model, where requests wait."""
    return setting(
        defaults.MAX_QUEUE_SIZE,
        f"{first}.max_queue_size",
        "requests that may wait; one more is rejected and the client retries; 0 means no limit",
        WholeNumber(minimum=0),
    )


def encoder_instances() -> Any:
    return setting(defaults.ENCODER_INSTANCES, "encoder.instances", "instances of the encoder", WholeNumber())


def encoder_threads() -> Any:
    return setting(
        defaults.ENCODER_THREADS, "encoder.threads", "threads of each CPU encoder instance", WholeNumber()
    )


def max_queue_delay_us() -> Any:
    return setting(
        defaults.MAX_QUEUE_DELAY_US,
        "encoder.max_queue_delay_us",
        "longest wait for a fuller batch at the encoder, in microseconds",
        WholeNumber(minimum=0),
    )


def encoder_version() -> Any:
    return setting(
        None,
        "encoder.version",
        "exported version to serve; null serves the newest",
        WholeNumber(optional=True),
        flag="activate",
    )
