"""`clip-profile compare` of files that `clip-profile stages --out` kept: stages down, files across."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clip_profile.answer.compare import Row, to_table
from clip_profile.records.statistics import Spread
from clip_profile.stages.result import ROWS, load_report

_FIGURES = ("mean", "p95")
_RESOURCES = (
    ("server: CPU", "ms a photo", ("server", "cpu_ms_per_photo")),
    ("server: memory", "MB, peak", ("server", "rss_mb_peak")),
    ("client: CPU", "ms a photo", ("client", "cpu_ms_per_photo")),
    ("client: memory", "MB, peak", ("client", "rss_mb_peak")),
    ("server's machine: CPU", "%", ("server_machine", "cpu_percent_mean")),
    ("this machine: CPU", "%", ("machine", "cpu_percent_mean")),
    ("this machine: memory", "%", ("machine", "memory_percent_mean")),
    ("GPU in use", "%", ("gpu", "percent_mean")),
    ("GPU memory", "MB, peak", ("gpu", "memory_mb_peak")),
)


def are_reports(names: Sequence[str]) -> bool:
    """Files, where runs of a sweep are folders."""
    return all(Path(name).is_file() for name in names)


def compare_reports(names: Sequence[str], *, as_json: bool) -> str:
    """The table, or what --json prints. Raises ProfileError for a file that is none of ours."""
    reports = [load_report(Path(name)) for name in names]
    rows = [row for row in _rows(reports) if any(cell is not None for cell in row.cells)]
    if not as_json:
        return to_table(list(names), rows)
    told = [
        {
            "group": row.group,
            "name": row.name,
            "unit": row.unit,
            "value": [cell.mean if cell else None for cell in row.cells],
            "change_percent": list(row.changes),
        }
        for row in rows
    ]
    return json.dumps({"columns": list(names), "rows": told}, indent=2)


def _rows(reports: Sequence[dict[str, Any]]) -> list[Row]:
    blocks = [("a photo", "per_photo"), ("a request", "per_request")]
    if all(one["load"]["images_per_request"] == 1 for one in reports):
        del blocks[0]  # the same figures
    rows = [
        _row(group, stage, f"ms, {figure}", [one[block][stage][f"{figure}_ms"] for one in reports])
        for group, block in blocks
        for stage in ROWS
        for figure in _FIGURES
    ]
    rows.append(_row("throughput", "photos/s", "", [one["photos_per_s"] for one in reports]))
    for name, unit, (who, figure) in _RESOURCES:
        values = [(one["resources"].get(who) or {}).get(figure) for one in reports]
        rows.append(_row("resources", name, unit, values))
    return rows


def _row(group: str, name: str, unit: str, values: Sequence[float | None]) -> Row:
    """Measured once each, so that nothing can be said of noise."""
    cells = tuple(None if value is None else Spread(value, None, 1) for value in values)
    first = values[0]
    changes = [None if value is None or not first else 100 * (value / first - 1) for value in values[1:]]
    return Row(group, name, unit, cells, (None, *changes), (None,) * len(values))
