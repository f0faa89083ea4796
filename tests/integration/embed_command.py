"""`clip-embed` as a process, and what it wrote."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from clip_client.sinks.parquet import errors_path
from testing.waiting import PATIENCE_S


def embed_command(*arguments: str) -> list[str]:
    """The command line, with a deadline that a busy machine does not reach."""
    return [sys.executable, "-m", "clip_client.cli", "--deadline", str(PATIENCE_S), *arguments]


def clip_embed(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = embed_command(*arguments, "--quiet")
    return subprocess.run(
        command, capture_output=True, text=True, timeout=2 * PATIENCE_S, check=False, **options
    )


def rows_of(path: Path) -> dict[str, dict[str, Any]]:
    """The rows of the output and of its errors, by name."""
    rows = pq.read_table(path).to_pylist()
    if errors_path(path).exists():
        rows += pq.read_table(errors_path(path)).to_pylist()
    by_name = {row["name"]: row for row in rows}
    assert len(by_name) == len(rows)
    return by_name
