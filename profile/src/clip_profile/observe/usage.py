"""CPU, memory and GPU over the time measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Level:
    """The mean and the peak of many looks."""

    mean: float
    peak: float

    @classmethod
    def of(cls, values: Sequence[float], factor: float = 1.0) -> Level | None:
        """None without values; `factor` converts their unit."""
        return cls(factor * sum(values) / len(values), factor * max(values)) if values else None


@dataclass(frozen=True)
class Usage:
    """Of some processes; `cpu_percent` is of the cores that may be used.

    `cpu_ms_per_photo_by_role` splits a server's among tritonserver itself and its stages' processes.
    """

    cpu_ms_per_photo: float | None = None
    cpu_percent: float | None = None
    rss_mb: Level | None = None
    cpu_ms_per_photo_by_role: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class MachineUsage:
    """Of a whole machine, in percent."""

    cpu_percent: Level | None = None
    memory_percent: Level | None = None


@dataclass(frozen=True)
class GpuUsage:
    """Of the server's machine: the use of its busiest GPU, and the memory of all of them together.

    `source` is `nvml`, or `metrics` for the server's own page.
    """

    source: str
    percent: Level | None
    memory_mb: Level | None
    memory_mb_total: float | None

    @classmethod
    def of(
        cls, source: str, uses: Sequence[float], memory_mb: Sequence[float], total_mb: float | None
    ) -> GpuUsage | None:
        """From uses (0..1) and megabytes, one for every look; None without any."""
        if not uses and not memory_mb:
            return None
        return cls(source, Level.of(uses, 100), Level.of(memory_mb), total_mb)

    @property
    def memory_percent(self) -> Level | None:
        used, total = self.memory_mb, self.memory_mb_total
        return Level(100 * used.mean / total, 100 * used.peak / total) if used and total else None


@dataclass(frozen=True)
class Resources:
    """`server` and `client` are processes of this machine; `server_machine` is another machine, from its
    metrics. What cannot be seen from here is None."""

    client: Usage = field(default_factory=Usage)
    machine: MachineUsage = field(default_factory=MachineUsage)
    server: Usage | None = None
    server_machine: MachineUsage | None = None
    gpu: GpuUsage | None = None
