"""`clip-embed` as a process, and what it wrote."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq


def clip_embed(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "clip_client.cli", *arguments, "--quiet"]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **options)


def rows_of(path: Path) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in pq.read_table(path).to_pylist()}
