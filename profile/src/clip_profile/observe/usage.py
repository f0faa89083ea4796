"""CPU, memory and GPU over the time measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import psutil


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


@dataclass(frozen=True)
class Usage:
    """Of some processes; `cpu_percent` is of all cores of the machine.

    `cpu_ms_per_photo_by_role` splits a server's among tritonserver itself and its stages' processes.
    """

    cpu_ms_per_photo: float | None = None
    cpu_percent: float | None = None
    rss_mb_mean: float | None = None
    rss_mb_peak: float | None = None
    cpu_ms_per_photo_by_role: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        cpu_s: float,
        rss_mb: Sequence[float],
        photos: int,
        seconds: float,
        by_role: Mapping[str, float] | None = None,
    ) -> Usage:
        """Of `seconds` in which `photos` were embedded."""
        return cls(
            1000 * cpu_s / photos if photos else None,
            100 * cpu_s / seconds / (psutil.cpu_count() or 1) if seconds > 0 else None,
            _mean(rss_mb), max(rss_mb, default=None), by_role or {},
        )  # fmt: skip


@dataclass(frozen=True)
class MachineUsage:
    """Of a whole machine, in percent."""

    cpu_percent_mean: float
    cpu_percent_peak: float
    memory_percent_mean: float | None = None
    memory_percent_peak: float | None = None

    @classmethod
    def of(cls, cpu: Sequence[float], memory: Sequence[float]) -> MachineUsage | None:
        """From percentages, one for every look; None without any."""
        if not cpu:
            return None
        return cls(sum(cpu) / len(cpu), max(cpu), _mean(memory), max(memory, default=None))


@dataclass(frozen=True)
class GpuUsage:
    """Of the server's machine: the use of its busiest GPU, and the memory of all of them together.

    `source` is `nvml`, or `metrics` for the server's own page (which perf_analyzer reads as well).
    """

    source: str
    percent_mean: float | None
    percent_peak: float | None
    memory_mb_mean: float | None
    memory_mb_peak: float | None
    memory_mb_total: float | None

    @classmethod
    def of(
        cls, source: str, use: Sequence[float], memory_mb: Sequence[float], total_mb: float | None
    ) -> GpuUsage | None:
        """From uses (0..1) and megabytes, one for every look; None without any."""
        if not use and not memory_mb:
            return None
        percent = [100 * value for value in use]
        most, most_mb = max(percent, default=None), max(memory_mb, default=None)
        return cls(source, _mean(percent), most, _mean(memory_mb), most_mb, total_mb)

    @property
    def memory_percent_mean(self) -> float | None:
        return self._percent(self.memory_mb_mean)

    @property
    def memory_percent_peak(self) -> float | None:
        return self._percent(self.memory_mb_peak)

    def _percent(self, mb: float | None) -> float | None:
        return 100 * mb / self.memory_mb_total if mb is not None and self.memory_mb_total else None


@dataclass(frozen=True)
class Resources:
    """`server` and `client` are processes of this machine; `server_machine` is another machine, from its
    metrics. None for what cannot be seen from here, `gpu` where there is none."""

    client: Usage
    machine: MachineUsage | None
    server: Usage | None = None
    server_machine: MachineUsage | None = None
    gpu: GpuUsage | None = None
