"""The benchmarks run end to end: on few photos for a few seconds, so their figures mean nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import machine, run
from benchmarks.results import Results
from benchmarks.systems import ROOT
from testing.pictures import camera_photos

PEERS = ROOT / ".venv-bench" / "bin" / "python"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for index, photo in enumerate(camera_photos(9, seed=2)):
        (folder / f"{index}.jpg").write_bytes(photo)
    return folder


def benchmark(
    photos: Path, repository: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, *systems: str
) -> Results:
    data = folder / "results.json"
    monkeypatch.setattr(run, "DATA", data)
    place = ["--photos", str(photos), "--repository", str(repository), "--out", str(folder / "results.md")]
    load = ["--passes", "1", "--seconds", "2", "--warm-up", "0.5"]
    assert run.main([*place, *load, "--only", *systems]) == 0
    assert "images/s" in (folder / "results.md").read_text()
    return Results.load(data)


def test_ours_and_the_ceiling(
    photos: Path, small_repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLIP_BENCH_PYTHON", sys.executable)
    monkeypatch.setattr(machine, "describe", lambda *_: {})  # which looks for the peers' packages
    systems = ("ours-fp32", "ours-null", "ceiling", "ceiling-null")
    results = benchmark(photos, small_repository, tmp_path, monkeypatch, *systems)
    assert {window.key.removesuffix("-bytes") for window in results.windows} >= set(systems)


@pytest.mark.skipif(not PEERS.exists(), reason="`make setup-bench` installs the peers")
def test_the_peers(
    photos: Path, small_repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    systems = ("origin-1-null", "litserve-null")
    results = benchmark(photos, small_repository, tmp_path, monkeypatch, *systems)
    assert {window.key for window in results.windows} == set(systems)


def test_overload(photos: Path, small_repository: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.overload", "--repository", str(small_repository)]
    load = ["--photos", str(photos), "--seconds", "2"]
    done = subprocess.run([*command, *load], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "goodput" in done.stdout
