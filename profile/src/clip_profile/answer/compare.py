"""`clip-profile compare`: runs or settings side by side, one metric per row.

Percentages are changes against the first column: for settings of one run they come from the rounds that the
two share, without the machine's drift, else from the means. A change whose 95 % interval contains 0 is marked
as noise; a metric that was measured once has no interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from clip_profile.answer.metrics import REQUEST, RESOURCES, STAGES, Metric, with_spread
from clip_profile.answer.recommend import recommend
from clip_profile.errors import ProfileError
from clip_profile.records.objective import Objective
from clip_profile.records.results import Result, results_of, rounds_of
from clip_profile.records.run_folder import RunFolder
from clip_profile.records.statistics import Rounds, Spread

NOISE = "noise"
_OF_ONE_RUN = 3
_LARGE = 1000
"""Values from here on are shown without decimals."""


@dataclass(frozen=True)
class Column:
    """A setting of a run."""

    run: Path
    result: Result

    @property
    def name(self) -> str:
        """As on the command line."""
        return f"{self.run}:{self.result.setting.label}"


@dataclass(frozen=True)
class Row:
    """One metric of every column. `changes` are percentages against another column (here the first),
    `proved` is whether they are beyond noise (None if unknown)."""

    group: str
    name: str
    unit: str
    cells: tuple[Spread | None, ...]
    changes: tuple[float | None, ...]
    proved: tuple[bool | None, ...]


_GROUPS = {"stages": STAGES, "request": REQUEST, "resources": RESOURCES}


def columns_of(names: Sequence[str], objective: Objective) -> list[Column]:
    """`RUN` (its best under the objective) or `RUN:SETTING LABEL`; a single RUN gives its best three.

    Raises ProfileError if there is no such run or setting.
    """
    if len(names) == 1 and ":" not in names[0]:
        run = RunFolder.load(Path(names[0]))
        results = results_of(run)
        results.sort(key=lambda one: (not objective.met(one), not one.repeated, -one.photos_per_s))
        return [Column(run.path, one) for one in results[:_OF_ONE_RUN]]
    return [_column(name, objective) for name in names]


def _column(name: str, objective: Objective) -> Column:
    path, _, label = name.partition(":")
    run = RunFolder.load(Path(path))
    if not label:
        return Column(run.path, recommend(run, objective).nearest)
    found = {one.setting.label: one for one in results_of(run)}
    if label not in found:
        raise ProfileError(f"{path} has no setting {label!r}; it has {', '.join(sorted(found))}")
    return Column(run.path, found[label])


def rows_of(columns: Sequence[Column]) -> list[Row]:
    """Every metric that at least one column has: without a GPU there are no rows about it."""
    rows = [_row(group, metric, columns) for group, shown in _GROUPS.items() for metric in shown]
    return [row for row in rows if any(cell is not None for cell in row.cells)]


def _row(group: str, metric: Metric, columns: Sequence[Column]) -> Row:
    results = [column.result for column in columns]
    sources = [str(column.run.resolve()) for column in columns]
    cells = tuple(result.spread(metric.of) for result in results)
    rounds = rounds_of(results, metric.of, sources)
    against = [
        _change(cells[0], cell, rounds if source == sources[0] else None, index)
        for index, (cell, source) in enumerate(zip(cells, sources, strict=True))
    ]
    changes, proved = zip(*[(None, None), *against[1:]], strict=True)
    return Row(group, metric.name, metric.unit, cells, changes, proved)


def _change(
    first: Spread | None, other: Spread | None, rounds: Rounds | None, index: int
) -> tuple[float | None, bool | None]:
    """The change in percent, and whether it is beyond noise; None if unknown."""
    if first is None or other is None or first.mean <= 0:
        return None, None
    change = (other.mean / first.mean - 1) * 100
    if first.half is None or other.half is None:
        return change, None
    difference = rounds.difference("0", str(index)) if rounds else None
    if difference is not None and not math.isnan(difference.ratio):
        return difference.percent, difference.proved
    # Runs of different times share no rounds, so the intervals of their means decide.
    return change, abs(first.mean - other.mean) > math.hypot(first.half, other.half)


def to_text(columns: Sequence[Column], rows: Sequence[Row], objective: Objective) -> str:
    """For people: the columns in words, then the table."""
    names = [f"[{number}]" for number in range(1, len(columns) + 1)]
    legend = []
    for name, column in zip(names, columns, strict=True):
        missed = "" if objective.met(column.result) else f"\n    misses the objective: {objective.describe()}"
        legend.append(f"{name} {column.name}\n    {column.result.setting.describe()}{missed}")
    return "\n".join([*legend, "", to_table(names, rows)])


def to_table(names: Sequence[str], rows: Sequence[Row]) -> str:
    """Plain text, one line per row, with a column for each of `names`."""
    lines = [["", "", *names]]
    for row in rows:
        cells = [_cell(*parts) for parts in zip(row.cells, row.changes, row.proved, strict=True)]
        lines.append([row.name, row.unit, *cells])
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    shown, group = [_line(lines[0], widths)], ""
    for row, line in zip(rows, lines[1:], strict=True):
        if row.group != group:
            group = row.group
            shown.append(f"--- {group} ".ljust(sum(widths) + 2 * len(widths) - 2, "-"))
        shown.append(_line(line, widths))
    return "\n".join(shown)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    left = [cell.ljust(width) for cell, width in zip(cells[:2], widths[:2], strict=True)]
    right = [cell.rjust(width) for cell, width in zip(cells[2:], widths[2:], strict=True)]
    return "  ".join([*left, *right]).rstrip()


def _cell(spread: Spread | None, change: float | None, proved: bool | None) -> str:
    if spread is None:
        return "-"
    text = with_spread(spread, 0 if spread.mean >= _LARGE else 1)
    if change is not None:
        text += f" {round(change, 1) + 0.0:+.1f} %" + (f" ({NOISE})" if proved is False else "")
    return text


def to_dict(columns: Sequence[Column], rows: Sequence[Row], objective: Objective) -> dict[str, Any]:
    """For machines: the same figures."""
    return {
        "columns": [
            {
                "name": column.name,
                "run": str(column.run),
                "setting": asdict(column.result.setting),
                "repeats": len(column.result.closed),
                "met": objective.met(column.result),
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
