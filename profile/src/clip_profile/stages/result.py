"""The result of one measurement of the stages; what is unknown stays empty."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clip_client.timings import STAGES
from clip_profile.errors import ProfileError
from clip_profile.observe.usage import Resources
from clip_profile.records.statistics import percentile

KIND = "clip-profile stages"
VERSION = 1
WHOLE = "whole"
"""The row below the six: from the start of the first load to the answer."""
ROWS = (*STAGES, WHOLE)


@dataclass(frozen=True)
class Distribution:
    """Milliseconds. If only the mean is known, the others are None; if nothing is, all are."""

    count: int = 0
    min: float | None = None
    mean: float | None = None
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    max: float | None = None

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Distribution:
        if not seconds:
            return cls()
        ms = [1000 * value for value in seconds]
        p50, p95, p99 = (percentile(ms, at) for at in (50, 95, 99))
        return cls(len(ms), min(ms), math.fsum(ms) / len(ms), p50, p95, p99, max(ms))

    @classmethod
    def mean_alone(cls, count: int, seconds: float | None, share: float = 1.0) -> Distribution:
        return cls() if seconds is None else cls(count, mean=1000 * share * seconds)


FIGURES = tuple(field.name for field in dataclasses.fields(Distribution) if field.name != "count")


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
    bytes: int
    failed: dict[str, int]
    queue_from: str
    per_photo: dict[str, Distribution]
    per_request: dict[str, Distribution]
    mean_batch: dict[str, float]
    resources: Resources
    notes: tuple[str, ...] = ()

    @property
    def photos_per_s(self) -> float:
        return self.photos / self.seconds if self.seconds > 0 else 0.0

    def to_dict(self) -> dict[str, Any]:
        """For JSON. Without a GPU there is no `gpu`; what is unknown is null."""
        values = dataclasses.asdict(self)
        if self.resources.gpu is None:
            del values["resources"]["gpu"]
        for block in ("per_photo", "per_request"):
            values[block] = {
                stage: {"count": one["count"], **{f"{name}_ms": one[name] for name in FIGURES}}
                for stage, one in values[block].items()
            }
        rates = {"photos_per_s": self.photos_per_s}
        return {"kind": KIND, "version": VERSION, **_rounded({**values, **rates})}


def _rounded(value: Any) -> Any:
    """To four digits: a tenth of a microsecond in milliseconds."""
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, Mapping):
        return {name: _rounded(each) for name, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list | tuple) else value


def load_report(file: Path) -> dict[str, Any]:
    """A report that --out wrote, as to_dict() made it. Raises ProfileError for anything else."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ProfileError(f"{file}: {error.strerror}") from error
    except ValueError as error:
        raise ProfileError(
            f"{file} is not JSON ({error}). Give a file that `clip-profile stages --out` wrote"
        ) from error
    if not isinstance(values, dict) or values.get("kind") != KIND:
        raise ProfileError(f"{file} was not written by `clip-profile stages --out`")
    if values.get("version") != VERSION:
        raise ProfileError(
            f"{file} has version {values.get('version')}; this clip-profile reads {VERSION}. Measure again"
        )
    return values
