"""The metrics shown of a setting, each with one name and unit everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from clip_profile.observe.usage import Level, Usage
from clip_profile.records.measurement import EMBED, PREPROCESS, Measurement
from clip_profile.records.results import Figure
from clip_profile.records.statistics import Spread, percentile


@dataclass(frozen=True)
class Metric:
    """`of` reads it from a measurement; `decimals` is its precision in texts."""

    name: str
    unit: str
    of: Figure
    decimals: int = 0
    short: str = ""

    @property
    def head(self) -> str:
        """Over a column of a table."""
        return self.short or f"{self.name} {self.unit}"

    def text(self, spread: Spread | None) -> str:
        return "-" if spread is None else with_spread(spread, self.decimals)


def with_spread(spread: Spread, decimals: int) -> str:
    half = "" if spread.half is None else f" ± {spread.half:.{decimals}f}"
    return f"{spread.mean:.{decimals}f}{half}"


def _mean(level: Level | None) -> float | None:
    return level.mean if level else None


def _peak(level: Level | None) -> float | None:
    return level.peak if level else None


def _server(one: Measurement) -> Usage:
    """Empty if its processes were not seen."""
    return one.resources.server or Usage()


def server_percent(one: Measurement) -> float | None:
    return _server(one).cpu_percent


def client_percent(one: Measurement) -> float | None:
    return one.resources.client.cpu_percent


def machine_percent(one: Measurement) -> float | None:
    return _mean(one.resources.machine.cpu_percent)


def _servers_machine_percent(one: Measurement) -> float | None:
    """None if the server may run on another machine than the one that was observed."""
    return machine_percent(one) if one.resources.server else None


def gpu_percent(one: Measurement) -> float | None:
    return _mean(one.resources.gpu.percent) if one.resources.gpu else None


def _gpu_memory_mb(one: Measurement) -> float | None:
    return _peak(one.resources.gpu.memory_mb) if one.resources.gpu else None


THROUGHPUT = Metric("throughput", "photos/s", lambda one: one.photos_per_s, 1, "photos/s")
MEAN = Metric("mean latency", "ms", lambda one: one.mean_ms)
P50 = Metric("p50", "ms", lambda one: one.p50_ms)
P95 = Metric("p95", "ms", lambda one: one.p95_ms)
P99 = Metric("p99", "ms", lambda one: one.p99_ms)
BATCH = Metric("mean batch, embed", "photos", lambda one: one.stages[EMBED].mean_batch, 1, "batch")
TRANSPORT = Metric("transport", "ms/request", lambda one: one.transport_ms)
QUEUE = Metric("queue", "ms/request", lambda one: sum(stage.queue_ms for stage in one.stages.values()))
DECODE = Metric("decode", "ms/photo", lambda one: one.decode_ms)
PREPROCESS_ALONE = Metric("preprocess", "ms/photo", lambda one: one.preprocess_ms)
BOTH = Metric("decode + preprocess", "ms/request", lambda one: one.stages[PREPROCESS].compute_ms)
EMBEDDING = Metric("embed", "ms/request", lambda one: one.stages[EMBED].compute_ms)
CPU = Metric("CPU of the server", "ms/photo", lambda one: _server(one).cpu_ms_per_photo, short="CPU ms")
MACHINE = Metric("CPU in use", "% of the machine", _servers_machine_percent)
RSS = Metric("memory (RSS)", "MB", lambda one: _peak(_server(one).rss_mb), short="RSS MB")
GPU = Metric("GPU in use", "%", gpu_percent, short="GPU %")
GPU_MEMORY = Metric("GPU memory", "MB", _gpu_memory_mb, short="GPU MB")

STAGES = (TRANSPORT, QUEUE, DECODE, PREPROCESS_ALONE, BOTH, EMBEDDING)
REQUEST = (THROUGHPUT, MEAN, P50, P95, P99, BATCH)
RESOURCES = (CPU, MACHINE, RSS, GPU, GPU_MEMORY)


def open_loop(runs: Sequence[Measurement], percent: int) -> Spread | None:
    """The percentile (50, 90, 95 or 99) of the latency over all requests of the runs, ms.

    Its spread is that of the runs' own percentiles. None if there are too few requests: the p99 of ninety
    is their maximum. For a run with too many requests to record, perf_analyzer's percentile is used.
    """
    if sum(one.requests for one in runs) * (100 - percent) < 100:
        return None
    own = Spread.of([getattr(one, f"p{percent}_ms") for one in runs])
    if not all(one.latencies_ms for one in runs):
        return own
    pooled = percentile([value for one in runs for value in one.latencies_ms], percent)
    return Spread(pooled, own.half, own.n)
