"""`clip-profile compare` of files that `clip-profile stages --out` wrote: stages down, files across."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from clip_profile.answer.compare import Row, rows_to_dicts, to_table
from clip_profile.records.statistics import Spread
from clip_profile.stages.result import ROWS, Report, load_report
from clip_profile.stages.table import resource_rows


def are_reports(names: Sequence[str]) -> bool:
    """Whether they are files: runs of a sweep are folders."""
    return all(Path(name).is_file() for name in names)


def compare_reports(names: Sequence[str], *, as_json: bool) -> str:
    """The table, or what --json prints. Raises ProfileError for a file of anything else."""
    rows = [row for row in _rows([load_report(Path(name)) for name in names]) if any(row.cells)]
    if as_json:
        return json.dumps({"columns": list(names), "rows": rows_to_dicts(rows)}, indent=2)
    return to_table(list(names), rows)


def _rows(reports: Sequence[Report]) -> list[Row]:
    blocks = [("per photo", [one.per_photo for one in reports])]
    blocks += [("per request", [one.per_request for one in reports])]
    if all(one.load["images_per_request"] == 1 for one in reports):
        del blocks[0]  # the same figures
    rows = [
        _row(group, stage, f"ms, {figure}", [getattr(one[stage], f"{figure}_ms") for one in stages])
        for group, stages in blocks
        for stage in ROWS
        for figure in ("mean", "p95")
    ]
    rows.append(_row("throughput", "photos/s", "", [one.photos_per_s for one in reports]))
    used = [resource_rows(one.resources) for one in reports]
    for name in dict.fromkeys(name for one in used for name in one):
        for at, kind in enumerate(("mean", "peak")):
            rows.append(_row("resources", name, kind, [one.get(name, (None, None))[at] for one in used]))
    return rows


def _row(group: str, name: str, unit: str, values: Sequence[float | None]) -> Row:
    """Each was measured once, so nothing is known about noise."""
    cells = tuple(None if value is None else Spread(value, None, 1) for value in values)
    first = values[0]
    changes = [None if value is None or not first else 100 * (value / first - 1) for value in values[1:]]
    return Row(group, name, unit, cells, (None, *changes), (None,) * len(values))
