"""The origin's table, theirs and ours in one: their published figures, and the same stages measured here.

The benchmark measures; here its figures (`benchmarks.run --data`) become columns. The workers added are
compared with one worker, ours with one worker too, where the figure is of the same thing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clip_profile.answer.compare import Row, rows_to_dicts, to_table
from clip_profile.errors import ProfileError
from clip_profile.records.statistics import Observation, Rounds, Spread

FORMAT = 1
"""Of the benchmark's file."""
ORIGIN = ("origin-1", "origin-2", "origin-3")
OURS = "ours-fp32"
KEYS = (*ORIGIN, OURS)
_NAMES = ("origin, 1 worker", "2 workers", "3 workers", "ours")
_THEIRS = ("T4: fewer workers", "T4: more workers")


@dataclass(frozen=True)
class Window:
    """One service under load in one pass, as the benchmark writes it; times in ms, memory in bytes."""

    key: str
    number: int
    images_per_s: float
    service_cpu_ms: float
    client_cpu_ms: float
    peak_rss: int
    busy: float
    photos_per_request: int
    stages: Mapping[str, float]
    """Means. Of the origin, preprocess and embed are of a request; of ours, of a photo and of a batch."""

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> Window:
        stages = {name: float(mean) for name, (mean, _) in found["stages"].items()}
        return cls(**{name: found[name] for name in cls.__annotations__ if name != "stages"}, stages=stages)


@dataclass(frozen=True)
class Measured:
    """What the benchmark has measured, on a machine with `memory_gb`; `failures` are sentences."""

    windows: tuple[Window, ...]
    memory_gb: float
    machine: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    failures: tuple[str, ...] = ()

    @classmethod
    def load(cls, path: Path, memory_gb: float) -> Measured:
        """Raises ProfileError for a file of another version of the benchmark."""
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            if found["format"] != FORMAT:
                raise ValueError(f"format {found['format']}")
            windows = tuple(Window.of(window) for window in found["windows"])
            failures = tuple(f"{key}, pass {number}: {why}" for key, number, why in found["failures"])
            return cls(windows, memory_gb, found["machine"], found["settings"], failures)
        except (KeyError, TypeError, ValueError) as error:
            raise ProfileError(
                f"{path} is not what this version reads of the benchmark ({error}): "
                "use benchmarks/ and clip-profile of one and the same clone"
            ) from error

    def missing(self) -> list[str]:
        """The columns that hold nothing."""
        measured = {window.key for window in self.windows}
        return [name for key, name in zip(KEYS, _NAMES, strict=True) if key not in measured]


Figure = Callable[[Window], float | None]


@dataclass(frozen=True)
class _Line:
    """A row to be: `theirs` is what their team published, `figure` what a window here has of it."""

    group: str
    name: str
    unit: str
    figure: Figure | None
    theirs: tuple[float, float] | None = None


def _stage(name: str) -> Figure:
    return lambda window: window.stages.get(name)


def _request(name: str) -> Figure:
    """Of the origin alone: ours handles no photos of a request together."""
    return lambda window: window.stages.get(name) if window.key in ORIGIN else None


def _preprocess(window: Window) -> float | None:
    return _shared(window, "preprocess", window.photos_per_request)


def _embed(window: Window) -> float | None:
    photos = window.photos_per_request if window.key in ORIGIN else window.stages.get("batch")
    return _shared(window, "embed", photos)


def _shared(window: Window, stage: str, photos: float | None) -> float | None:
    time = window.stages.get(stage)
    return time / photos if time is not None and photos else None


def _queue(window: Window) -> float | None:
    found = [window.stages.get(f"queue before {stage}") for stage in ("decode", "embed")]
    times = [time for time in found if time is not None]
    return sum(times) if times else None


def _lines(memory_gb: float) -> tuple[_Line, ...]:
    memory = memory_gb * 2**30
    return (
        _Line("stages", "load", "ms a photo", _stage("load"), (204.48, 105.82)),
        _Line("stages", "decode", "ms a photo", _stage("decode"), (24.80, 30.47)),
        _Line("stages", "load + decode", "ms a request", _request("load+decode"), (300.36, 320.69)),
        _Line("stages", "preprocess", "ms a request", _request("preprocess"), (105.93, 262.54)),
        _Line("stages", "preprocess", "ms a photo", _preprocess),
        _Line("stages", "embed", "ms a request", _request("embed"), (218.94, 466.93)),
        _Line("stages", "embed", "ms a photo", _embed),
        _Line("stages", "queue", "ms a request", _queue),
        _Line("whole", "throughput", "photos/s", lambda window: window.images_per_s),
        _Line("resources", "CPU", "ms a photo", lambda w: w.service_cpu_ms + w.client_cpu_ms),
        _Line("resources", "CPU in use", "% of the machine", lambda w: 100 * w.busy, (80.06, 91.73)),
        _Line("resources", "memory", "% of the machine", lambda w: 100 * w.peak_rss / memory, (53.07, 66.59)),
        _Line("resources", "memory, peak RSS", "MB", lambda w: w.peak_rss / 1e6),
        _Line("resources", "GPU in use", "%", None, (86.96, 98.9)),
        _Line("resources", "GPU memory", "%", None, (33.23, 32.85)),
    )


def rows_of(measured: Measured) -> list[Row]:
    """Two columns of theirs, three of the origin's design here, and ours."""
    return [_row(line, measured.windows) for line in _lines(measured.memory_gb)]


def _row(line: _Line, windows: Sequence[Window]) -> Row:
    theirs = tuple(Spread(value, None, 1) for value in line.theirs) if line.theirs else (None, None)
    found = [
        Observation(window.key, str(window.number), value)
        for window in windows
        if line.figure and (value := line.figure(window)) is not None and value > 0
    ]
    of_key = {key: [one.value for one in found if one.subject == key] for key in KEYS}
    cells = (*theirs, *(Spread.of(values) if values else None for values in of_key.values()))
    changes = [None, _change(*theirs), None, *(_change(cells[2], cell) for cell in cells[3:])]
    rounds = Rounds(found)
    proved = [None, None, None, *(_proved(rounds, key) for key in KEYS[1:])]
    return Row(line.group, line.name, line.unit, cells, tuple(changes), tuple(proved))


def _change(first: Spread | None, other: Spread | None) -> float | None:
    return (other.mean / first.mean - 1) * 100 if first and other else None


def _proved(rounds: Rounds, key: str) -> bool | None:
    """Whether it differs from one worker; None if one of the two, or a second pass, is missing."""
    difference = rounds.difference(ORIGIN[0], key)
    return None if math.isinf(difference.high) else difference.proved


def to_text(measured: Measured) -> str:
    """For people: the table, and what its columns are."""
    passes = max((window.number for window in measured.windows), default=0)
    facts = {"machine": _machine(measured), **measured.settings, "passes": str(passes)}
    parts = [
        to_table((*_THEIRS, *_NAMES), rows_of(measured)),
        "\n".join(f"{name}: {value}" for name, value in facts.items()),
        NOTES,
    ]
    if measured.failures:
        parts.append("not measured:\n" + "\n".join(measured.failures))
    return "\n\n".join(parts)


def _machine(measured: Measured) -> str:
    names = ("CPU", "cores used", "memory", "GPU")
    return ", ".join(f"{name} {measured.machine[name]}" for name in names if name in measured.machine)


NOTES = """\
T4: the figures that the origin's team published, of a machine of theirs. Compare its two columns with each
other, and the four measured here with each other. Change in percent: theirs against fewer workers, here
against one worker. ± is half of a 95 % interval over passes, "noise" a change that is not beyond it.
A request of the origin holds eight photos here (theirs: not known), one of ours a single photo; preprocess
and embed "a photo" are its share of a request, or of a batch of ours. What waits inside the origin is in its
stages; ours counts it as queue, and loads in its client. CPU: service and client together. Memory: the
service, a page that processes share counted in each. None of those measured here uses a GPU."""


def to_dict(measured: Measured) -> dict[str, Any]:
    """For machines: the same figures."""
    return {
        "columns": [*_THEIRS, *_NAMES],
        "machine": dict(measured.machine),
        "settings": dict(measured.settings),
        "rows": rows_to_dicts(rows_of(measured)),
        "failures": list(measured.failures),
    }
