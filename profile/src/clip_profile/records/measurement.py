"""What one run of perf_analyzer found out, beside what the server and the machine told meanwhile."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from clip_profile.records.setting import Setting

Arrival = Literal["closed", "poisson"]
"""Closed loop: so many requests always in flight. Poisson: they arrive as they like, at a mean rate."""

PREPROCESS = "preprocess"
EMBED = "embed"


def mean_batch(batches: Mapping[int, int]) -> float:
    """Of executions by batch size; 0 where there were none."""
    executions = sum(batches.values())
    return sum(size * n for size, n in batches.items()) / executions if executions else 0.0


@dataclass(frozen=True)
class Stage:
    """One composing model over the run; times are milliseconds.

    `queue_ms` and `compute_ms` are means per request, as perf_analyzer reports them. `busy` is the share
    (0..1) of its instances' time in which they computed. `batches` counts executions by batch size.
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

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Stage:
        batches = {int(size): n for size, n in values["batches"].items()}
        return cls(**{**values, "batches": batches})


@dataclass(frozen=True)
class Sample:
    """The machine at `at_s` seconds into the run. CPU in cores, memory in MB.

    `gpus` is the use (0..1) of each GPU of this machine, None for one that does not tell; their memory is
    that of all. `machine_memory` is the share (0..1) that is in use.
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

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Sample:
        return cls(**{**values, "gpus": tuple(values["gpus"])})


@dataclass(frozen=True)
class Resources:
    """Over the run; what belongs to the server's processes is None where they run elsewhere.

    `cpu_ms_per_photo` is the server's. `server_busy` and `client_busy` are shares (0..1) of the cores that
    may be used, `machine_busy` of all that there are. `gpu` is the busiest GPU's use (0..1), the memory that
    of all GPUs; both are None where there is no GPU.
    """

    cpu_ms_per_photo: float | None
    rss_mb: float | None
    server_busy: float | None
    client_busy: float
    machine_busy: float
    gpu: float | None = None
    gpu_memory_mb: float | None = None
    samples: tuple[Sample, ...] = ()

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Resources:
        samples = tuple(map(Sample.from_dict, values["samples"]))
        return cls(**{**values, "samples": samples})


@dataclass(frozen=True)
class Measurement:
    """One run at one setting. Latencies are milliseconds per request, as the client saw them.

    `round` 0 is the search; 1, 2, ... are interleaved repeats. `rate` is the offered load in requests a
    second, None in a closed loop. `transport_ms` is what a request took outside of the two models.
    `at` is seconds since 1970, `seconds` the length of perf_analyzer's windows.
    """

    setting: Setting
    round: int
    arrival: Arrival
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
    command: tuple[str, ...] = ()
    decode_ms: float | None = None
    """Mean per photo; with `preprocess_ms` the most of the preprocess model's compute. None if not told."""
    preprocess_ms: float | None = None
    latencies_ms: tuple[float, ...] = ()
    """Of each request, where perf_analyzer was asked for them (open loop)."""

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Measurement:
        return cls(
            **{
                **values,
                "setting": Setting.from_dict(values["setting"]),
                "stages": {name: Stage.from_dict(stage) for name, stage in values["stages"].items()},
                "resources": Resources.from_dict(values["resources"]),
                "command": tuple(values["command"]),
                "latencies_ms": tuple(values["latencies_ms"]),
            }
        )


@dataclass(frozen=True)
class Failure:
    """A setting that could not be measured, and why. `died` is whether its server did."""

    setting: Setting
    round: int
    arrival: Arrival
    at: float
    text: str
    died: bool = False

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Failure:
        return cls(**{**values, "setting": Setting.from_dict(values["setting"])})
