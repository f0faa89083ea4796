"""The records of a run folder: one run of perf_analyzer, with the figures of the server and the machine.

msgspec writes them as JSON and checks them when they are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from clip_profile.observe.usage import Resources
from clip_profile.records.setting import Setting
from clip_serving import defaults

Arrival = Literal["closed", "poisson"]
"""Closed loop: a fixed number of requests in flight. Poisson: requests arrive at random, at a mean rate."""

Phase = Literal["search", "rounds", "load curve"]
"""Of a sweep (see sweep/sweep.py)."""

PREPROCESS = "preprocess"
EMBED = "embed"
MODEL_OF_STAGE = {PREPROCESS: defaults.PREPROCESS, EMBED: defaults.ENCODER}
"""In the order of the ensemble."""


def mean_batch(batches: Mapping[int, int]) -> float:
    """Mean batch size of executions counted by batch size; 0 without executions."""
    executions = sum(batches.values())
    return sum(size * n for size, n in batches.items()) / executions if executions else 0.0


@dataclass(frozen=True)
class Stage:
    """One composing model over the run; times are milliseconds.

    `queue_ms` and `compute_ms` are means per request, as perf_analyzer reports them. `busy` is the share
    (0..1) of its instances' time spent computing. `batches` counts executions by batch size.
    """

    queue_ms: float
    compute_ms: float
    instances: int
    busy: float
    batches: dict[int, int]
    cpu_ms_per_photo: float | None = None

    @property
    def mean_batch(self) -> float:
        return mean_batch(self.batches)


@dataclass(frozen=True)
class Sample:
    """The machine at `at_s` seconds into the run. CPU in cores, memory in MB.

    `gpus` holds the utilization (0..1) of each GPU of this machine, None for a GPU that does not report it;
    `gpu_memory_mb` is the sum over all GPUs. `machine_memory` is the share (0..1) in use.
    """

    at_s: float
    server_cpu: float | None
    client_cpu: float
    machine_cpu: float
    server_rss_mb: float | None
    gpus: tuple[float | None, ...] = ()
    gpu_memory_mb: float | None = None
    client_rss_mb: float | None = None
    machine_memory: float | None = None


@dataclass(frozen=True)
class Round:
    """Number 1, 2, ... of the interleaved repeats of a group: every setting of the group runs once."""

    group: str
    number: int


@dataclass(frozen=True)
class Trial:
    """What is measured at most once: a setting under one kind of load.

    `round` is None for the single run of the search or of the load curve. Trials of different phases are
    equal, so what the load curve measured is not measured again by a later search.
    """

    setting: Setting
    round: Round | None
    arrival: Arrival
    phase: Phase = field(default="search", compare=False, kw_only=True)

    @property
    def trial(self) -> Trial:
        """The trial alone, without its outcome."""
        return Trial(self.setting, self.round, self.arrival, phase=self.phase)


@dataclass(frozen=True)
class Measurement(Trial):
    """A trial that worked. Latencies are milliseconds per request, as the client saw them.

    `rate` is the offered load in requests per second, None in a closed loop. `transport_ms` is the part of a
    request's latency outside the two models. `at` is seconds since 1970, `seconds` the length of
    perf_analyzer's windows.
    """

    rate: float | None
    at: float
    seconds: float
    requests: int
    photos_per_s: float
    mean_ms: float
    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    transport_ms: float
    stages: dict[str, Stage]
    resources: Resources
    samples: tuple[Sample, ...] = ()
    command: tuple[str, ...] = ()
    decode_ms: float | None = None
    """Mean per photo, as `preprocess_ms`; the two are most of the preprocess model's compute time."""
    preprocess_ms: float | None = None
    latencies_ms: tuple[float, ...] = ()
    """Of each request, if perf_analyzer recorded them (open loop)."""


@dataclass(frozen=True)
class Failure(Trial):
    """A trial that failed, and why. `died` is whether its server crashed."""

    at: float
    text: str
    died: bool = False
