"""The result of one measurement of the stages, as written to JSON; unknown values are null."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

from clip_client.timings import STAGES
from clip_profile.errors import ProfileError
from clip_profile.observe.usage import Resources
from clip_profile.records.statistics import percentile

WHOLE = "whole"
"""The row below the six: from the start of the first load to the answer."""
ROWS = (*STAGES, WHOLE)
FIGURES = ("min", "mean", "p50", "p95", "p99", "max")


@dataclass(frozen=True)
class Distribution:
    """If only the mean is known, the others are None; if nothing is, all are."""

    count: int = 0
    min_ms: float | None = None
    mean_ms: float | None = None
    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    max_ms: float | None = None

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Distribution:
        if not seconds:
            return cls()
        ms = [1000 * value for value in seconds]
        p50, p95, p99 = (percentile(ms, at) for at in (50, 95, 99))
        return cls(len(ms), min(ms), math.fsum(ms) / len(ms), p50, p95, p99, max(ms))

    @classmethod
    def mean_alone(cls, count: int, seconds: float | None, share: float = 1.0) -> Distribution:
        return cls() if seconds is None else cls(count, mean_ms=1000 * share * seconds)

    def figures(self) -> list[float | None]:
        """In the order of FIGURES."""
        return [getattr(self, f"{name}_ms") for name in FIGURES]


@dataclass(frozen=True)
class Report:
    """One measurement. `ended` is "" if it ran its time, else why it did not.

    `queue_from` is `traces` (every request's own), `statistics` (means of all requests) or "" (unknown).
    `failed` counts photos by error code.
    """

    about: dict[str, Any]
    load: dict[str, Any]
    ended: str
    seconds: float
    requests: int
    photos: int
    photos_per_s: float
    bytes: int
    failed: dict[str, int]
    queue_from: str
    per_photo: dict[str, Distribution]
    per_request: dict[str, Distribution]
    mean_batch: dict[str, float]
    resources: Resources
    notes: list[str] = field(default_factory=list)
    kind: Literal["clip-profile stages"] = "clip-profile stages"
    version: Literal[2] = 2

    def to_json(self) -> str:
        """Indented; without a GPU there is no `gpu`."""
        values = msgspec.to_builtins(self)
        if self.resources.gpu is None:
            del values["resources"]["gpu"]
        return msgspec.json.format(msgspec.json.encode(values)).decode()


def load_report(file: Path) -> Report:
    """A report that --out wrote. Raises ProfileError for anything else."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=Report)
    except OSError as error:
        raise ProfileError(f"{file}: {error.strerror}") from error
    except msgspec.MsgspecError as error:
        raise ProfileError(
            f"{file} was not written by `clip-profile stages --out` of this version: {error}"
        ) from error
