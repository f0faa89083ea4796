"""`clip-profile compare`: runs or settings side by side, stages down, in the form of the origin's table.

Percent is the change against the first column: of one run's settings in the rounds that they share, with the
machine's drift left out, else of the means. A change whose 95 % interval holds 0 is marked as noise; figures
that were measured once have no interval, and nothing is said of them but the change.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from clip_profile.answer.metrics import REQUEST, RESOURCES, STAGES
from clip_profile.answer.recommend import recommend
from clip_profile.errors import ProfileError
from clip_profile.records.objective import Objective
from clip_profile.records.results import Figure, Result, results_of, rounds_of
from clip_profile.records.run_folder import RunFolder
from clip_profile.records.statistics import Difference, Rounds, Spread

NOISE = "noise"
_LARGE = 1000
"""Shown without decimals from here on."""


@dataclass(frozen=True)
class Column:
    """One configuration: a run's setting under a name. `met` is whether it meets the objective."""

    name: str
    run: Path
    result: Result
    met: bool = True


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


_GROUPS = (("stages", STAGES), ("request", REQUEST), ("resources", RESOURCES))


def columns_of(names: Sequence[str], objective: Objective, top: int = 3) -> list[Column]:
    """`RUN` (its best under the objective) or `RUN:SETTING LABEL`; a single RUN gives its `top` settings.

    Raises ProfileError where a run or a setting of it is missing.
    """
    if len(names) == 1 and ":" not in names[0]:
        path = Path(names[0])
        results = _results(RunFolder.load(path))
        able = {one.setting: objective.met(one.photos_per_s, one.p95_ms) for one in results}
        results.sort(key=lambda one: (not able[one.setting], not one.repeated, -one.photos_per_s))
        return [Column(one.setting.label, path, one, able[one.setting]) for one in results[:top]]
    return [_column(name, objective) for name in names]


def _results(run: RunFolder) -> list[Result]:
    results = results_of(run)
    if not results:
        raise ProfileError(f"{run.path} holds no measurement yet")
    return results


def _column(name: str, objective: Objective) -> Column:
    path, _, label = name.partition(":")
    run = RunFolder.load(Path(path))
    found = {one.setting.label: one for one in _results(run)}
    if label:
        if label not in found:
            raise ProfileError(f"{path} has no setting {label!r}; it has {', '.join(sorted(found))}")
        result = found[label]
        return Column(name, run.path, result, objective.met(result.photos_per_s, result.p95_ms))
    recommendation = recommend(run, objective)
    assert recommendation is not None
    result = recommendation.nearest
    name = f"{run.path.name}: {result.setting.label}"
    return Column(name, run.path, result, recommendation.best is not None)


def misses(columns: Sequence[Column], objective: Objective) -> list[str]:
    """A sentence for each column that does not meet the objective."""
    return [
        f"{column.name} does not meet the objective ({objective.describe()})"
        for column in columns
        if not column.met
    ]


def rows_of(columns: Sequence[Column]) -> list[Row]:
    """All figures that at least one column has: where there is no GPU its rows are left out."""
    rows = [
        _row(group, shown.name, shown.unit, shown.of, columns)
        for group, figures in _GROUPS
        for shown in figures
    ]
    return [row for row in rows if any(cell is not None for cell in row.cells)]


def _row(group: str, name: str, unit: str, figure: Figure, columns: Sequence[Column]) -> Row:
    results = [column.result for column in columns]
    sources = [str(column.run.resolve()) for column in columns]
    cells = [result.spread(figure) for result in results]
    rounds = rounds_of(results, figure, sources)
    changes: list[float | None] = [None]
    proved: list[bool | None] = [None]
    for number, cell in enumerate(cells[1:], 1):
        difference = _difference(rounds, number) if sources[number] == sources[0] else None
        change, sure = _against(cells[0], cell, difference)
        changes.append(change)
        proved.append(sure)
    return Row(group, name, unit, tuple(cells), tuple(changes), tuple(proved))


def _difference(rounds: Rounds, other: int) -> Difference | None:
    """Against the first column; None where they share no rounds."""
    try:
        found = rounds.difference("0", str(other))
    except KeyError:  # it was in no round, or the figure is 0 in each
        return None
    return None if math.isnan(found.ratio) else found


def _against(
    first: Spread | None, other: Spread | None, difference: Difference | None
) -> tuple[float | None, bool | None]:
    """The change in percent, and whether it is proved; None each where it cannot be told."""
    if first is None or other is None or first.mean <= 0:
        return None, None
    repeated = first.half is not None and other.half is not None
    if difference is not None and repeated:
        return difference.percent, difference.proved
    return (other.mean / first.mean - 1) * 100, _apart(first, other)


def _apart(first: Spread, other: Spread) -> bool | None:
    """Runs of different times share no rounds: the intervals of their means decide."""
    if first.half is None or other.half is None:
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
                "setting": asdict(column.result.setting),
                "repeats": len(column.result.closed),
                "met": column.met,
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
