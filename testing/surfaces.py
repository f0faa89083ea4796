"""A simulated service whose throughput is known for every setting: two stages that share the cores."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from clip_profile.records.setting import Setting, Space

Surface = Callable[[Setting], float]

_SMALL = Space(
    preprocess_instances=(1, 2, 4), encoder_threads=(1, 2), concurrency=(2, 8, 16), encoder_cores=2
)
_MIDDLE = Space(
    preprocess_instances=(1, 2, 4, 8), encoder_instances=(1, 2, 4), encoder_threads=(1, 2, 4),
    max_batch=(8, 64), concurrency=(2, 8, 16, 32), encoder_cores=4,
)  # fmt: skip
SPACES = {"small": (2, _SMALL), "middle": (4, _MIDDLE), "default": (2, Space.for_cores(2))}
"""Cores and space by name."""


def surface(random: np.random.Generator, cores: int) -> Surface:
    """Photos a second. The costs of both stages, the gains from threads and batches, and the price of more
    processes than cores are random; either stage, the cores, or too few requests in flight can be the limit.
    """
    decode_ms, encode_ms, other_ms = random.uniform([10, 20, 2], [80, 150, 20])
    thread_gain, batch_gain, crowding = random.uniform([0.5, 0.0, 0.02], [1.0, 0.4, 0.2])
    delay_share = random.uniform(0, 1)

    def photos_per_s(at: Setting) -> float:
        photos = at.concurrency * at.request_batch
        batch = min(at.max_batch, max(1.0, photos / (at.encoder_instances + 1)))
        gain = 1 + batch_gain * (1 - 1 / batch) * (1 + 0.1 * (at.queue_delay_us > 0))
        speed_up = at.encoder_threads**thread_gain
        decoders = min(at.preprocess_instances, cores) / decode_ms
        encoders = at.encoder_instances * speed_up / encode_ms * gain
        running = at.preprocess_instances + at.encoder_instances * at.encoder_threads
        cpu_ms = decode_ms + encode_ms / gain * at.encoder_threads / speed_up
        machine = cores / cpu_ms / (1 + crowding * max(0, running - cores) / cores)
        latency = decode_ms + encode_ms / speed_up + other_ms + at.queue_delay_us / 1000 * delay_share
        return 1000 * _soft_min(_soft_min(decoders, encoders, machine, sharp=6), photos / latency, sharp=4)

    return photos_per_s


def _soft_min(*values: float, sharp: float) -> float:
    return math.exp(-math.log(sum(value**-sharp for value in values)) / sharp)


def noisy(value: float, noise: float, random: np.random.Generator) -> float:
    """With a relative standard deviation of `noise`."""
    return value * math.exp(random.normal(0, noise))


def start_of(space: Space, cores: int) -> Setting:
    """Like a server's default: a decoder per core, the encoder on all cores, many requests in flight."""
    return min(
        space.points(),
        key=lambda p: (
            abs(p.preprocess_instances - cores),
            abs(p.encoder_instances * p.encoder_threads - cores),
            -p.concurrency,
        ),
    )
