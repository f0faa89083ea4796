"""`clip-profile compare`: runs or settings side by side, stages down, in the form of the origin's table.

Percent is the change against the first column. A change whose 95 % interval holds 0 is marked as noise;
figures that were measured once have no interval, and nothing is said of them but the change.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clip_serving.errors import ProfileError
from clip_serving.profile.measurement import EMBED, PREPROCESS, Measurement
from clip_serving.profile.objective import Objective
from clip_serving.profile.recommend import recommend
from clip_serving.profile.results import Figure, Result, results_of, rounds_of
from clip_serving.profile.run_folder import RunFolder
from clip_serving.profile.statistics import Rounds, Spread

NOISE = "noise"
_LARGE = 1000
"""Shown without decimals from here on."""


@dataclass(frozen=True)
class Column:
    """One configuration: a run's setting under a name."""

    name: str
    run: Path
    result: Result


@dataclass(frozen=True)
class Row:
    """One figure of every column. `changes` are percent against another column (compare's: the first),
    `proved` whether beyond noise (None where it cannot be told)."""

    group: str
    name: str
    unit: str
    cells: tuple[Spread | None, ...]
    changes: tuple[float | None, ...]
    proved: tuple[bool | None, ...]


def _queue(one: Measurement) -> float:
    return sum(stage.queue_ms for stage in one.stages.values())


_STAGES: tuple[tuple[str, str, Figure], ...] = (
    ("transport", "ms a request", lambda one: one.transport_ms),
    ("queue", "ms a request", _queue),
    ("decode", "ms a photo", lambda one: one.decode_ms),
    ("preprocess", "ms a photo", lambda one: one.preprocess_ms),
    ("decode + preprocess", "ms a request", lambda one: one.stages[PREPROCESS].compute_ms),
    ("embed", "ms a request", lambda one: one.stages[EMBED].compute_ms),
)
_WHOLE: tuple[tuple[str, str, Figure], ...] = (
    ("throughput", "photos/s", lambda one: one.photos_per_s),
    ("mean latency", "ms", lambda one: one.mean_ms),
    ("p50", "ms", lambda one: one.p50_ms),
    ("p95", "ms", lambda one: one.p95_ms),
    ("p99", "ms", lambda one: one.p99_ms),
    ("mean batch, embed", "photos", lambda one: one.stages[EMBED].mean_batch),
)
_RESOURCES: tuple[tuple[str, str, Figure], ...] = (
    ("CPU of the server", "ms a photo", lambda one: one.resources.cpu_ms_per_photo),
    ("CPU in use", "% of the machine", lambda one: 100 * one.resources.machine_busy),
    ("memory (RSS)", "MB", lambda one: one.resources.rss_mb),
    ("GPU in use", "%", lambda one: None if one.resources.gpu is None else 100 * one.resources.gpu),
    ("GPU memory", "MB", lambda one: one.resources.gpu_memory_mb),
)
_GROUPS = (("stages", _STAGES), ("request", _WHOLE), ("resources", _RESOURCES))


def columns_of(names: Sequence[str], objective: Objective, top: int = 3) -> list[Column]:
    """`RUN` (its best under the objective) or `RUN:SETTING LABEL`; a single RUN gives its `top` settings.

    Raises ProfileError where a run or a setting of it is missing.
    """
    if len(names) == 1 and ":" not in names[0]:
        results = results_of(RunFolder.load(Path(names[0])))
        chosen = sorted(results, key=lambda one: (not one.repeated, -one.photos_per_s))[:top]
        return [Column(one.setting.label, Path(names[0]), one) for one in chosen]
    return [_column(name, objective) for name in names]


def _column(name: str, objective: Objective) -> Column:
    path, _, label = name.partition(":")
    run = RunFolder.load(Path(path))
    if label:
        found = {one.setting.label: one for one in results_of(run)}
        if label not in found:
            raise ProfileError(f"{path} has no setting {label!r}; it has {', '.join(sorted(found))}")
        return Column(name, run.path, found[label])
    recommendation = recommend(run, objective)
    if recommendation is None:
        raise ProfileError(f"{path} holds no measurement yet")
    result = recommendation.nearest
    return Column(f"{run.path.name}: {result.setting.label}", run.path, result)


def rows_of(columns: Sequence[Column]) -> list[Row]:
    """All figures that at least one column has: where there is no GPU its rows are left out."""
    rows = [
        _row(group, name, unit, figure, columns)
        for group, figures in _GROUPS
        for name, unit, figure in figures
    ]
    return [row for row in rows if any(cell is not None for cell in row.cells)]


def _row(group: str, name: str, unit: str, figure: Figure, columns: Sequence[Column]) -> Row:
    results = [column.result for column in columns]
    cells = [result.spread(figure) for result in results]
    first = cells[0]
    # By position, for two runs may hold the same setting.
    keys = [str(number) for number in range(len(columns))]
    rounds = rounds_of(results, figure, keys)
    changes: list[float | None] = [None]
    proved: list[bool | None] = [None]
    for key, column, cell in zip(keys[1:], columns[1:], cells[1:], strict=True):
        comparable = first is not None and cell is not None and first.mean > 0
        changes.append((cell.mean / first.mean - 1) * 100 if comparable and cell and first else None)
        if not comparable or (first and first.half is None) or (cell and cell.half is None):
            proved.append(None)
        elif column.run == columns[0].run:
            proved.append(_proved(rounds, keys[0], key))
        else:
            proved.append(_apart(first, cell))
    return Row(group, name, unit, tuple(cells), tuple(changes), tuple(proved))


def _proved(rounds: Rounds, first: str, other: str) -> bool | None:
    try:
        return rounds.difference(first, other).proved
    except KeyError:  # a figure that is 0 in every round
        return None


def _apart(first: Spread | None, other: Spread | None) -> bool | None:
    """Runs of different times share no rounds: the intervals of their means decide."""
    if first is None or other is None or first.half is None or other.half is None:
        return None
    return abs(first.mean - other.mean) > math.hypot(first.half, other.half)


def to_table(names: Sequence[str], rows: Sequence[Row]) -> str:
    """For people: plain text, one line a figure, a column for each of `names`."""
    header = ["", "", *names]
    lines = [header]
    for row in rows:
        cells = [_cell(*parts) for parts in zip(row.cells, row.changes, row.proved, strict=True)]
        lines.append([row.name, row.unit, *cells])
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    shown, group = [_line(header, widths)], ""
    for row, line in zip(rows, lines[1:], strict=True):
        if row.group != group:
            group = row.group
            shown.append(f"--- {group} " + "-" * (sum(widths) + 2 * len(widths) - len(group) - 7))
        shown.append(_line(line, widths))
    return "\n".join(shown)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    left = [cell.ljust(width) for cell, width in zip(cells[:2], widths[:2], strict=True)]
    right = [cell.rjust(width) for cell, width in zip(cells[2:], widths[2:], strict=True)]
    return "  ".join([*left, *right]).rstrip()


def _cell(spread: Spread | None, change: float | None, proved: bool | None) -> str:
    if spread is None:
        return "-"
    decimals = 0 if spread.mean >= _LARGE else 1
    text = f"{spread.mean:.{decimals}f}"
    if spread.half is not None:
        text += f" ±{spread.half:.{decimals}f}"
    if change is not None:
        text += f" {round(change, 1) + 0.0:+.1f} %" + (f" ({NOISE})" if proved is False else "")
    return text


def to_dict(columns: Sequence[Column], rows: Sequence[Row]) -> dict[str, Any]:
    """For machines: the same figures."""
    return {
        "columns": [
            {
                "name": column.name,
                "run": str(column.run),
                "setting": column.result.setting.to_dict(),
                "repeats": len(column.result.closed),
            }
            for column in columns
        ],
        "rows": rows_to_dicts(rows),
    }


def rows_to_dicts(rows: Sequence[Row]) -> list[dict[str, Any]]:
    return [
        {
            "group": row.group,
            "name": row.name,
            "unit": row.unit,
            "mean": [cell.mean if cell else None for cell in row.cells],
            "half": [cell.half if cell else None for cell in row.cells],
            "change_percent": list(row.changes),
            "beyond_noise": list(row.proved),
        }
        for row in rows
    ]
