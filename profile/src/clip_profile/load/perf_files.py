"""Reads what perf_analyzer writes: its CSV reports (-f) and its requests (--profile-export-file)."""

from __future__ import annotations

import csv
import mmap
import re
from dataclasses import dataclass
from pathlib import Path

from clip_profile.errors import ProfileError
from clip_profile.records.measurement import MODEL_OF_STAGE

REPORT = "report.csv"
REQUESTS = "requests.json"

_COMPUTE = ("Server Compute Input", "Server Compute Infer", "Server Compute Output")
_Row = dict[str, str]


@dataclass(frozen=True)
class StageTimes:
    """Means per request, in milliseconds."""

    queue_ms: float
    compute_ms: float


@dataclass(frozen=True)
class Report:
    """One load of one perf_analyzer run; latencies are milliseconds per request, as its client saw them."""

    photos_per_s: float
    mean_ms: float
    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    stages: dict[str, StageTimes]

    @property
    def transport_ms(self) -> float:
        """The mean latency less the time in both models."""
        inside = sum(stage.queue_ms + stage.compute_ms for stage in self.stages.values())
        return max(0.0, self.mean_ms - inside)


def read_report(folder: Path) -> Report:
    """The report of a run at one load in `folder`; raises ProfileError if it is not as expected."""
    row = _only_row(folder / REPORT)

    def ms(name: str) -> float:
        return _number(row, f"{name} latency") / 1000

    return Report(
        _number(row, "Inferences/Second"), ms("Avg"), ms("p50"), ms("p90"), ms("p95"), ms("p99"),
        stages={stage: _stage_times(folder, model) for stage, model in MODEL_OF_STAGE.items()},
    )  # fmt: skip


_REQUEST = re.compile(
    rb'\{"timestamp":(\d+),|"response_timestamps":\[([\d,]*)\]|"window_boundaries":\[([\d,]*)\]'
)


def read_latencies_ms(path: Path) -> tuple[float, ...]:
    """Of every request that was answered within the windows, in the order in which they were sent.

    perf_analyzer writes each request's photo into the file, byte for byte, so it is large and not valid
    UTF-8: a JSON parser would reject it, or need its size in memory. Quotes inside strings are escaped, so
    the keys that are searched for here can appear nowhere else. Raises ProfileError.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _latencies_ms(data, path)
    except (OSError, ValueError) as error:
        raise ProfileError(f"perf_analyzer wrote no readable {path.name}: {error}") from error


def _latencies_ms(data: mmap.mmap, path: Path) -> tuple[float, ...]:
    windows: list[int] = []
    spans: list[tuple[int, int]] = []
    begin: int | None = None
    for match in _REQUEST.finditer(data):
        start, responses, boundaries = match.groups()
        if start is not None:
            begin = int(start)
        elif boundaries is not None:
            windows = [int(part) for part in boundaries.split(b",") if part]
        elif begin is not None and responses:
            spans.append((begin, int(responses.split(b",")[-1])))
    if len(windows) < 2:
        raise ProfileError(f"{path.name} has no measurement windows. Is it from another perf_analyzer?")
    return tuple((end - start) / 1e6 for start, end in sorted(spans) if windows[0] <= end <= windows[-1])


def _stage_times(folder: Path, model: str) -> StageTimes:
    found = sorted(folder.glob(f"{model}_v*.{REPORT}"))
    if len(found) != 1:
        raise ProfileError(f"perf_analyzer reported nothing about {model}. Is it a model of the ensemble?")
    row = _only_row(found[0])
    compute = sum(_number(row, column) for column in _COMPUTE)
    return StageTimes(_number(row, "Server Queue") / 1000, compute / 1000)


def _only_row(path: Path) -> _Row:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except OSError:
        raise ProfileError(f"perf_analyzer wrote no {path.name}") from None
    if len(rows) != 1:
        raise ProfileError(f"{path.name} has {len(rows)} rows where one load was measured")
    return rows[0]


def _number(row: _Row, column: str) -> float:
    try:
        return float(row[column])
    except (KeyError, TypeError, ValueError):
        raise ProfileError(
            f"perf_analyzer's report has no number in column {column!r}. Is it from another version?"
        ) from None
