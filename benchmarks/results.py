"""What was measured, and the arithmetic on it: no process and no clock in sight."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

FORMAT = 2


@dataclass
class Window:
    """One load in one pass (numbered from 1). CPU times are milliseconds per photo, memory is in bytes.

    `others` is the share of the machine's CPU time that went to neither the system, its client nor the
    bucket, `busy` the share that went to anything at all. `stages` has mean milliseconds, and how often the
    stage was timed.
    """

    key: str
    number: int
    images_per_s: float
    service_cpu_ms: float
    client_cpu_ms: float
    peak_rss: int
    client_peak_rss: int
    latencies_ms: list[float]
    others: float
    stages: dict[str, tuple[float, int]] = field(default_factory=dict)
    busy: float = 0.0
    photos_per_request: int = 1

    @property
    def images_per_cpu_s(self) -> float:
        """Photos for a second of CPU time, service and client together."""
        return 1000 / (self.service_cpu_ms + self.client_cpu_ms)


@dataclass
class Results:
    """A whole run: windows in the order in which they were measured.

    `bad_input` has (system, what was wrong with one photo of eight, what it answered), `failures` (system,
    pass, why it could not be measured).
    """

    machine: dict[str, str]
    settings: dict[str, str]
    windows: list[Window] = field(default_factory=list)
    bad_input: list[tuple[str, str, str]] = field(default_factory=list)
    failures: list[tuple[str, int, str]] = field(default_factory=list)
    interrupted: bool = False
    """By Ctrl-C: the passes are not complete."""
    format: int = FORMAT

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(dataclasses.asdict(self)) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Results:
        """Raises ValueError for a file of another version."""
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if values.get("format") != FORMAT:
            raise ValueError(f"{path} was written by another version of the benchmark. Run it again")
        windows = [Window(**window) for window in values.pop("windows")]
        for name in ("bad_input", "failures"):
            values[name] = [tuple(row) for row in values[name]]
        return cls(windows=windows, **values)

    def of(self, key: str) -> list[Window]:
        return [window for window in self.windows if window.key == key]

    @property
    def passes(self) -> int:
        return max((window.number for window in self.windows), default=0)


@dataclass(frozen=True)
class Spread:
    """A figure over passes: its median, least and largest."""

    median: float
    least: float
    largest: float

    @classmethod
    def over(cls, values: Sequence[float]) -> Spread | None:
        return cls(statistics.median(values), min(values), max(values)) if values else None

    def text(self, layout: str) -> str:
        if self.least == self.largest:
            return format(self.median, layout)
        return f"{self.median:{layout}} ({self.least:{layout}} to {self.largest:{layout}})"


def percentile(values: Sequence[float], percent: float) -> float | None:
    """None if the values are too few for it: p99 of 50 requests would be their maximum."""
    if len(values) * (100 - percent) < 100:
        return None
    return float(np.percentile(values, percent))


def ratio(results: Results, ours: str, theirs: str, measure: str = "images_per_s") -> Spread | None:
    """Pass by pass, so that other work on the machine in a pass affects both."""
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
    before: Mapping[str, tuple[float, int]], after: Mapping[str, tuple[float, int]]
) -> dict[str, tuple[float, int]]:
    """(mean ms, count) of each stage between two readings of running (seconds, count)."""
    means = {}
    for stage, (seconds, count) in after.items():
        seconds_before, count_before = before.get(stage, (0.0, 0))
        if (number := count - count_before) > 0:
            means[stage] = (1000 * (seconds - seconds_before) / number, number)
    return means
