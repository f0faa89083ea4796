"""What was measured, and the arithmetic on it: no process and no clock in sight."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

FORMAT = 1


@dataclass
class Window:
    """One contender under load in one pass. Times in milliseconds, memory in bytes."""

    key: str
    number: int
    """Of the pass, from 1."""
    images_per_s: float
    service_cpu_ms: float
    """CPU time of the service, a photo."""
    client_cpu_ms: float
    """CPU time of its client, a photo."""
    peak_rss: int
    client_peak_rss: int
    latencies_ms: list[float]
    """Of the requests that ended within the window."""
    others: float
    """The share of the machine's CPU time that went to neither the contender, its client nor the bucket."""
    stages: dict[str, tuple[float, int]] = field(default_factory=dict)
    """Mean milliseconds and how often the stage was timed."""
    busy: float | None = None
    """The share of the machine's CPU time that went to anything at all."""
    photos_per_request: int = 1

    @property
    def images_per_cpu_s(self) -> float:
        """Photos for a second of CPU time, service and client together."""
        return 1000 / (self.service_cpu_ms + self.client_cpu_ms)


@dataclass
class Results:
    """A whole run: windows in the order in which they were measured."""

    machine: dict[str, str]
    settings: dict[str, str]
    windows: list[Window] = field(default_factory=list)
    bad_input: list[tuple[str, str, str]] = field(default_factory=list)
    """(contender, what was wrong with one photo of eight, what it answered)."""
    failures: list[tuple[str, int, str]] = field(default_factory=list)
    """(contender, pass, why it could not be measured)."""
    format: int = FORMAT

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(dataclasses.asdict(self)) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Results:
        """Raises ValueError for a file of another version."""
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if values.get("format") != FORMAT:
            raise ValueError(f"{path} was written by another version of the benchmark: run it again")
        windows = [Window(**window) for window in values.pop("windows")]
        for name in ("bad_input", "failures"):
            values[name] = [tuple(row) for row in values[name]]
        return cls(windows=windows, **values)

    def of(self, key: str) -> list[Window]:
        return [window for window in self.windows if window.key == key]


@dataclass(frozen=True)
class Spread:
    """A figure over passes: its median, least and largest."""

    median: float
    least: float
    largest: float

    @classmethod
    def over(cls, values: Sequence[float]) -> Spread | None:
        return cls(statistics.median(values), min(values), max(values)) if values else None


def rate(rows: Sequence[tuple[float, float, int]], begin: float, end: float) -> float:
    """Photos a second from `begin` to `end`, of rows (begin, end, photos) of requests in a closed loop.

    A request that crosses a border counts with the part of its time that lies within: whole batches
    that end just before or after it would else weigh as much as the difference that is looked for.
    """
    photos = 0.0
    for started, ended, count in rows:
        within = min(ended, end) - max(started, begin)
        if within > 0:
            photos += count * within / (ended - started)
    return photos / (end - begin)


def latencies_ms(rows: Sequence[tuple[float, float, int]], begin: float, end: float) -> list[float]:
    """Of the requests that ended within the time."""
    return [1000 * (ended - started) for started, ended, _ in rows if begin <= ended < end]


def percentile(values: Sequence[float], percent: float) -> float | None:
    """None where so few values say nothing about it: p99 of 50 requests would be their maximum."""
    if len(values) * (100 - percent) < 100:
        return None
    return float(np.percentile(values, percent))


def ratio(results: Results, ours: str, theirs: str, measure: str = "images_per_s") -> Spread | None:
    """Pass by pass, so that what the machine did in a pass is in both."""
    other = {window.number: getattr(window, measure) for window in results.of(theirs)}
    return Spread.over(
        [
            getattr(window, measure) / other[window.number]
            for window in results.of(ours)
            if other.get(window.number)
        ]
    )


def best(results: Results, keys: Sequence[str]) -> str | None:
    """The one with the highest median throughput."""
    medians = {
        key: spread.median
        for key in keys
        if (spread := Spread.over([window.images_per_s for window in results.of(key)]))
    }
    return max(medians, key=lambda key: medians[key]) if medians else None


def stage_means(windows: Sequence[Window]) -> dict[str, float]:
    """Means over all passes, weighted by how often each stage was timed in a pass."""
    sums: dict[str, tuple[float, int]] = {}
    for window in windows:
        for stage, (mean, count) in window.stages.items():
            total, number = sums.get(stage, (0.0, 0))
            sums[stage] = (total + mean * count, number + count)
    return {stage: total / number for stage, (total, number) in sums.items() if number}


def difference(
    before: dict[str, tuple[float, int]], after: dict[str, tuple[float, int]]
) -> dict[str, tuple[float, int]]:
    """(mean ms, count) of each stage between two readings of running (seconds, count)."""
    means = {}
    for stage, (seconds, count) in after.items():
        seconds_before, count_before = before.get(stage, (0.0, 0))
        if count > count_before:
            number = count - count_before
            means[stage] = (1000 * (seconds - seconds_before) / number, number)
    return means
