"""`make demo` from photos to the page, on real servers."""

from __future__ import annotations

import subprocess
import sys

import pyarrow.parquet as pq

from clip_client.sinks.parquet import errors_path
from tools.demo.__main__ import OUT, PAGE, ROOT


def test_the_demo_embeds_its_photos_and_writes_its_page() -> None:
    OUT.unlink(missing_ok=True)
    PAGE.unlink(missing_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", "tools.demo"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[6/6] nearest neighbors" in done.stdout
    assert "All servers are stopped" in done.stdout
    failed = [row["error_code"] for row in pq.read_table(errors_path(OUT)).to_pylist()]
    assert len(failed) == 1, "the broken photo among its own"
    assert PAGE.read_text().count("data:image/jpeg;base64,") > 1
    if "no model hub reachable" in done.stdout:
        assert "NOT CLIP: no model hub could be reached" in PAGE.read_text()
        assert "36 of 36 photos have a nearest neighbor of the same scene" in done.stdout
