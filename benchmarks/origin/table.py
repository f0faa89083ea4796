"""The origin's table, theirs and ours in one: their published figures, and the same stages measured here.

The origin with 2 and 3 workers, and ours, are compared with the origin with one worker, where the figures
are of the same thing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.results import Results, Window
from clip_profile.answer.compare import Row, rows_to_dicts, to_table
from clip_profile.records.statistics import Observation, Rounds, Spread

ORIGIN = ("origin-1", "origin-2", "origin-3")
KEYS = (*ORIGIN, "ours-fp32")
_NAMES = ("origin, 1 worker", "2 workers", "3 workers", "ours")
_THEIRS = ("T4: fewer workers", "T4: more workers")


def missing(results: Results) -> list[str]:
    """The columns without a measurement."""
    return [name for key, name in zip(KEYS, _NAMES, strict=True) if not results.of(key)]


Figure = Callable[[Window], float | None]


@dataclass(frozen=True)
class _Line:
    """One row: `theirs` is what the origin's team published, `figure` reads the same from a window here."""

    group: str
    name: str
    unit: str
    figure: Figure | None
    theirs: tuple[float, float] | None = None


def _mean(window: Window, stage: str) -> float | None:
    """Of the origin, preprocess and embed are of a request; of ours, of a photo and of a batch."""
    return window.stages[stage][0] if stage in window.stages else None


def _stage(name: str) -> Figure:
    return lambda window: _mean(window, name)


def _request(name: str) -> Figure:
    """Of the origin alone: ours does not handle the photos of a request together."""
    return lambda window: _mean(window, name) if window.key in ORIGIN else None


def _preprocess(window: Window) -> float | None:
    return _shared(window, "preprocess", window.photos_per_request)


def _embed(window: Window) -> float | None:
    photos = window.photos_per_request if window.key in ORIGIN else _mean(window, "batch")
    return _shared(window, "embed", photos)


def _shared(window: Window, stage: str, photos: float | None) -> float | None:
    time = _mean(window, stage)
    return time / photos if time is not None and photos else None


def _queue(window: Window) -> float | None:
    found = [_mean(window, f"queue before {stage}") for stage in ("decode", "embed")]
    times = [time for time in found if time is not None]
    return sum(times) if times else None


def _lines(memory_gb: float) -> tuple[_Line, ...]:
    memory = memory_gb * 2**30
    return (
        _Line("stages", "load", "ms/photo", _stage("load"), (204.48, 105.82)),
        _Line("stages", "decode", "ms/photo", _stage("decode"), (24.80, 30.47)),
        _Line("stages", "load + decode", "ms/request", _request("load+decode"), (300.36, 320.69)),
        _Line("stages", "preprocess", "ms/request", _request("preprocess"), (105.93, 262.54)),
        _Line("stages", "preprocess", "ms/photo", _preprocess),
        _Line("stages", "embed", "ms/request", _request("embed"), (218.94, 466.93)),
        _Line("stages", "embed", "ms/photo", _embed),
        _Line("stages", "queue", "ms/request", _queue),
        _Line("whole", "throughput", "photos/s", lambda window: window.images_per_s),
        _Line("resources", "CPU", "ms/photo", lambda w: w.service_cpu_ms + w.client_cpu_ms),
        _Line("resources", "CPU in use", "% of the machine", lambda w: 100 * w.busy, (80.06, 91.73)),
        _Line("resources", "memory", "% of the machine", lambda w: 100 * w.peak_rss / memory, (53.07, 66.59)),
        _Line("resources", "memory, peak RSS", "MB", lambda w: w.peak_rss / 1e6),
        _Line("resources", "GPU in use", "%", None, (86.96, 98.9)),
        _Line("resources", "GPU memory", "%", None, (33.23, 32.85)),
    )


def rows_of(results: Results, memory_gb: float) -> list[Row]:
    """Two columns of theirs, three of the origin's design here, and ours; the machine has `memory_gb`."""
    return [_row(line, results.windows) for line in _lines(memory_gb)]


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


def to_text(results: Results, memory_gb: float) -> str:
    """The table for people, and what its columns are."""
    names = ("CPU", "cores used", "memory", "GPU")
    machine = ", ".join(f"{name} {results.machine[name]}" for name in names if name in results.machine)
    facts = {"machine": machine, **results.settings, "passes": str(results.passes)}
    parts = [
        to_table((*_THEIRS, *_NAMES), rows_of(results, memory_gb)),
        "\n".join(f"{name}: {value}" for name, value in facts.items()),
        NOTES,
    ]
    if results.failures:
        failures = [f"{key}, pass {number}: {why}" for key, number, why in results.failures]
        parts.append("not measured:\n" + "\n".join(failures))
    return "\n\n".join(parts)


NOTES = """\
T4: the figures that the origin's team published, measured on a machine of theirs. Compare these
two columns with each other, and the four that were measured here with each other. Changes are in percent:
theirs relative to fewer workers, here relative to one worker. ± is half of a 95 % interval over passes;
"noise" marks a change that is not beyond it. A request of the origin holds eight photos here (theirs:
unknown), one of ours a single photo; "ms/photo" divides preprocess and embed by the photos of a request, or
of a batch of ours. The origin's stages include its queueing; ours is counted as queue, and our client does
the loading. CPU is service and client together. Memory is the service's, with shared pages counted in each
process. Nothing here uses a GPU."""


def to_dict(results: Results, memory_gb: float) -> dict[str, Any]:
    """The same figures, for JSON."""
    return {
        "columns": [*_THEIRS, *_NAMES],
        "machine": results.machine,
        "settings": results.settings,
        "rows": rows_to_dicts(rows_of(results, memory_gb)),
        "failures": [f"{key}, pass {number}: {why}" for key, number, why in results.failures],
    }
