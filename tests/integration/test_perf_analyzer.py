"""The real perf_analyzer runs the README's command against the ensemble."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from clip_serving.server.embedded import TritonServer
from testing.pictures import camera_photos
from testing.waiting import PATIENCE_S


def test_the_report_shows_the_composing_models(server: TritonServer, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for index, photo in enumerate(camera_photos(4, seed=10)):
        (photos / f"{index}.jpg").write_bytes(photo)
    command = "from clip_serving.server.perf_analyzer import main_input; main_input(['photos'])"
    subprocess.run([sys.executable, "-c", command], cwd=tmp_path, check=True)
    # -s 999: a busy machine does not hold the rate steady, and the figures do not matter here.
    arguments = [
        "-m", "clip_image", "-i", "grpc", "-u", server.grpc_url, "--input-data", "photos.json",
        "--concurrency-range", "4", "--measurement-mode", "count_windows",
        "--measurement-request-count", "20", "--max-trials", "3", "-s", "999", "-f", "report.csv",
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "clip_serving.server.perf_analyzer", *arguments],
        cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "clip_image_preprocess" in done.stdout
    assert "clip_image_encoder" in done.stdout
    assert "Inferences/Second" in (tmp_path / "report.csv").read_text()
