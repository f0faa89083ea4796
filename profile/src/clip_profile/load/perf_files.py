"""Reads what perf_analyzer leaves behind: its CSV reports (-f) and its requests (--profile-export-file)."""

from __future__ import annotations

import csv
import mmap
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from clip_profile.errors import ProfileError
from clip_profile.records.measurement import EMBED, PREPROCESS
from clip_serving import defaults

REPORT = "report.csv"
REQUESTS = "requests.json"

_STAGES = {PREPROCESS: defaults.PREPROCESS, EMBED: defaults.ENCODER}
_COMPUTE = ("Server Compute Input", "Server Compute Infer", "Server Compute Output")


@dataclass(frozen=True)
class StageTimes:
    """Means per request, in milliseconds."""

    queue_ms: float
    compute_ms: float


@dataclass(frozen=True)
class Report:
    """One load of one perf_analyzer run; latencies in milliseconds per request, of the client.

    `transport_ms` is the mean latency less the time in both models. GPU figures (the busiest's
    use, 0..1; the memory of all, MB) are the server's, where it told any.
    """

    photos_per_s: float
    mean_ms: float
    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    stages: dict[str, StageTimes]
    gpu: float | None
    gpu_memory_mb: float | None

    @property
    def transport_ms(self) -> float:
        inside = sum(stage.queue_ms + stage.compute_ms for stage in self.stages.values())
        return max(0.0, self.mean_ms - inside)


def read_report(folder: Path) -> Report:
    """The reports of a run at one load in `folder`; raises ProfileError where they are not as expected."""
    row = _only_row(folder / REPORT)
    stages = {stage: _stage_times(folder, model) for stage, model in _STAGES.items()}
    return Report(
        photos_per_s=_number(row, "Inferences/Second"),
        mean_ms=_number(row, "Avg latency") / 1000,
        p50_ms=_number(row, "p50 latency") / 1000,
        p90_ms=_number(row, "p90 latency") / 1000,
        p95_ms=_number(row, "p95 latency") / 1000,
        p99_ms=_number(row, "p99 latency") / 1000,
        stages=stages,
        gpu=_per_gpu(row, "Avg GPU Utilization", max),
        gpu_memory_mb=_scaled(_per_gpu(row, "Max GPU Memory Usage", sum), 1 / 2**20),
    )


@dataclass(frozen=True)
class Requests:
    """The latency of every request of a run, in the order in which they were sent."""

    latencies_ms: tuple[float, ...]


_REQUEST = re.compile(
    rb'\{"timestamp":(\d+),|"response_timestamps":\[([\d,]*)\]|"window_boundaries":\[([\d,]*)\]'
)


def read_requests(path: Path) -> Requests:
    """The requests that were answered within the windows.

    perf_analyzer writes each request's photo into the file, byte for byte, so it is large and no valid
    UTF-8: a JSON parser would refuse it, or take its size in memory. Inside of strings every quote is
    escaped, so the keys that are looked for here can stand nowhere else.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _requests(data, path)
    except (OSError, ValueError) as error:
        raise ProfileError(f"perf_analyzer left no readable {path.name}: {error}") from error


def _requests(data: mmap.mmap, path: Path) -> Requests:
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
        raise ProfileError(f"{path.name} names no measurement windows: is it of another perf_analyzer?")
    inside = sorted(span for span in spans if windows[0] <= span[1] <= windows[-1])
    return Requests(tuple((end - start) / 1e6 for start, end in inside))


def _stage_times(folder: Path, model: str) -> StageTimes:
    found = sorted(folder.glob(f"{model}_v*.{REPORT}"))
    if len(found) != 1:
        raise ProfileError(f"perf_analyzer reported nothing about {model}: is it a model of the ensemble?")
    row = _only_row(found[0])
    return StageTimes(
        queue_ms=_number(row, "Server Queue") / 1000,
        compute_ms=sum(_number(row, column) for column in _COMPUTE) / 1000,
    )


def _only_row(path: Path) -> dict[str, str]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except OSError:
        raise ProfileError(f"perf_analyzer left no {path.name}") from None
    if len(rows) != 1:
        raise ProfileError(f"{path.name} has {len(rows)} rows where one load was measured")
    return rows[0]


def _number(row: dict[str, str], column: str) -> float:
    try:
        return float(row[column])
    except (KeyError, TypeError, ValueError):
        raise ProfileError(
            f"perf_analyzer's report has no figure in the column {column!r}: is it of another version?"
        ) from None


def _per_gpu(row: dict[str, str], column: str, one: Callable[[list[float]], float]) -> float | None:
    """`GPU-uuid:0.93;GPU-uuid:0.87;` made `one` figure; None for an empty cell."""
    values = [float(part.rpartition(":")[2]) for part in (row.get(column) or "").split(";") if part]
    return one(values) if values else None


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor
