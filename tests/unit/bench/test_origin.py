"""`make compare-origin`: the table of both, what is said if something is missing, and Ctrl-C."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks.origin.compare import main
from benchmarks.origin.table import KEYS, missing, rows_of, to_dict, to_text
from benchmarks.results import Results, Window
from benchmarks.systems import only_from_bucket, systems
from clip_profile.answer.compare import Row
from clip_serving import defaults
from clip_serving.encoder.cpu import Cpu
from testing.pictures import camera_photos
from testing.processes import all_gone
from testing.repositories import rendered_repository
from testing.waiting import PATIENCE_S

ROOT = Path(__file__).parents[3]
_MEMORY_GB = 16.0
OURS = {
    "load": 14.0,
    "decode": 66.0,
    "preprocess": 10.0,
    "embed": 320.0,
    "batch": 4.0,
    "queue before decode": 250.0,
    "queue before embed": 3.0,
}
THEIRS = {"load": 90.0, "decode": 460.0, "load+decode": 790.0, "preprocess": 160.0, "embed": 1300.0}


def window(key: str, number: int, **changes: Any) -> Window:
    """As the benchmark has it; a pass later everything takes a fiftieth longer."""
    ours = key.startswith("ours")
    drift = 1 + number / 50
    stages = {name: (ms * drift, 40) for name, ms in (OURS if ours else THEIRS).items()}
    made = Window(
        key=key, number=number, images_per_s=15.0 / drift, service_cpu_ms=120.0, client_cpu_ms=10.0,
        peak_rss=2 * 2**30, client_peak_rss=10**8, latencies_ms=[], others=0.01, stages=stages, busy=0.9,
        photos_per_request=1 if ours else 8,
    )  # fmt: skip
    return dataclasses.replace(made, **changes)


def results(*windows: Window, failures: list[tuple[str, int, str]] | None = None) -> Results:
    return Results({"CPU": "a fast one"}, {"photos": "40"}, list(windows), failures=failures or [])


def three_passes() -> list[Window]:
    slower = {"stages": {**{name: (ms, 40) for name, ms in THEIRS.items()}, "preprocess": (200.0, 40)}}
    return [
        window(key, number, **(slower if key == "origin-3" else {})) for number in (1, 2, 3) for key in KEYS
    ]


@pytest.fixture
def measured() -> Results:
    return results(*three_passes())


def row(measured: Results, name: str, unit: str) -> Row:
    (found,) = [row for row in rows_of(measured, _MEMORY_GB) if (row.name, row.unit) == (name, unit)]
    return found


def means(found: Row) -> list[float | None]:
    return [cell.mean if cell else None for cell in found.cells]


def test_the_benchmark_has_the_requested_rows() -> None:
    found = {system.key: only_from_bucket(system) for system in systems(2, Cpu.here())}
    assert [load.key for key in KEYS for load in found[key].loads] == list(KEYS)
    assert not found["litserve"].loads


def test_the_docs_have_the_same_published_figures(measured: Results) -> None:
    page = (ROOT / "docs" / "explanation" / "origin.md").read_text(encoding="utf-8")
    for line in rows_of(measured, _MEMORY_GB):
        if line.cells[0] and line.cells[1]:
            figures = r"[ %]*\| ".join(f"{re.escape(f'{cell.mean:g}')}0?" for cell in line.cells[:2] if cell)
            assert re.search(rf"\| {figures}[ %]*\|", page), (line.name, line.unit)


def test_stages_come_first_and_resources_last(measured: Results) -> None:
    rows = rows_of(measured, _MEMORY_GB)
    groups = [row.group for row in rows]
    assert groups == sorted(groups, key=["stages", "whole", "resources"].index)
    names = list(dict.fromkeys(row.name for row in rows if row.group == "stages"))
    assert names == ["load", "decode", "load + decode", "preprocess", "embed", "queue"]


def test_changes_are_against_fewer_workers_and_against_one(measured: Results) -> None:
    found = row(measured, "preprocess", "ms/request")
    assert found.changes[1] == pytest.approx(147.84, abs=0.01)
    assert found.changes[0] is None
    assert found.changes[2] is None
    assert found.changes[3] == pytest.approx(0.0)
    assert found.changes[4] == pytest.approx(100 * (200.0 / (160.0 * 1.04) - 1))
    assert found.proved == (None, None, None, False, True, None)


def test_only_comparable_figures_are_compared(measured: Results) -> None:
    """A request of the origin's holds eight photos, one of ours one: a photo's share is compared."""
    assert means(row(measured, "embed", "ms/request"))[5] is None
    assert means(row(measured, "load + decode", "ms/request"))[5] is None
    assert means(row(measured, "embed", "ms/photo"))[2::3] == [
        pytest.approx(1300 * 1.04 / 8),
        pytest.approx(320.0 / 4),
    ]
    preprocess = row(measured, "preprocess", "ms/photo")
    assert preprocess.changes[5] == pytest.approx(100 * (10.0 / (160.0 / 8) - 1))
    assert means(row(measured, "queue", "ms/request"))[2:] == [None, None, None, pytest.approx(253 * 1.04)]
    assert means(row(measured, "memory", "% of the machine"))[2:] == [12.5] * 4


def test_a_single_pass_has_no_spread_and_proves_nothing() -> None:
    for found in rows_of(results(*(window(key, 1) for key in KEYS)), _MEMORY_GB):
        assert all(cell is None or cell.half is None for cell in found.cells)
        assert set(found.proved) == {None}


def test_the_table_and_the_json_hold_the_same(measured: Results) -> None:
    lines = to_text(measured, _MEMORY_GB).splitlines()
    (line,) = [line for line in lines if line.startswith("load  ")]
    assert line.split()[:4] == ["load", "ms/photo", "204.5", "105.8"]
    assert "passes: 3" in lines
    values = json.loads(json.dumps(to_dict(measured, _MEMORY_GB)))
    assert len(values["columns"]) == 6
    (load,) = [row for row in values["rows"] if row["name"] == "load"]
    assert load["mean"][:2] == [204.48, 105.82]
    assert load["change_percent"][1] == pytest.approx(-48.25, abs=0.01)


def test_failed_measurements_are_reported() -> None:
    windows = [window for window in three_passes() if window.key != "origin-3"]
    found = results(*windows, failures=[("origin-3", 1, "no memory")])
    assert missing(found) == ["3 workers"]
    assert "origin-3, pass 1: no memory" in to_text(found, _MEMORY_GB)
    assert all(line.cells[4] is None for line in rows_of(found, _MEMORY_GB))


# --- what is missing ---------------------------------------------------------------------------


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main([*map(str, arguments)]) == 2
    text = capsys.readouterr().err
    assert "Traceback" not in text
    return text


def test_no_environment_of_the_origin(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLIP_BENCH_PYTHON", str(tmp_path / "python"))
    text = refused(capsys)
    assert f"{tmp_path / 'python'}, is missing (named by CLIP_BENCH_PYTHON)" in text
    assert "make setup-bench" in text


@pytest.fixture
def without_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Python that lacks the origin's packages: nothing would start with it."""
    monkeypatch.setenv("CLIP_BENCH_PYTHON", sys.executable)


@pytest.mark.usefixtures("without_peers")
def test_too_few_photos(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = refused(capsys, "--photos", tmp_path)
    assert f"{tmp_path} holds 0 JPEGs; at least 8" in text


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(8):
        (folder / f"{number}.jpg").write_bytes(b"\xff\xd8\xff")
    return folder


@pytest.mark.usefixtures("without_peers")
def test_no_export(tmp_path: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = refused(capsys, "--photos", photos, "--repository", tmp_path)
    assert f"{tmp_path} holds no exported encoder. Run: clip-export" in text


@pytest.mark.usefixtures("without_peers")
def test_an_environment_without_the_origins_packages(
    tmp_path: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rendered_repository(tmp_path)
    (tmp_path / defaults.ENCODER / "1" / defaults.ONNX_FP32_FILE).touch()
    text = refused(capsys, "--photos", photos, "--repository", tmp_path)
    assert f"{sys.executable} lacks a package of the peers" in text
    assert "make setup-bench" in text


# --- Ctrl-C ------------------------------------------------------------------------------------

# The benchmark itself, over systems that need no peer: the first works by itself, the second never starts.
_COMMAND = """
import sys, time
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from benchmarks import run
from benchmarks.origin import compare
from benchmarks.systems import Load, System, no_service

@contextmanager
def stuck(workspace):
    print("stuck", file=sys.stderr, flush=True)
    time.sleep(600)
    yield

run.machine.describe = lambda peers, cores: {}
run.served_version = lambda repository: Path(repository)
works = System("origin-1", "null", no_service, (Load("origin-1", "origin", "ceiling", 1, 8),))
hangs = System("origin-2", "null", stuck, (Load("origin-2", "origin", "ceiling", 1, 8),))
compare.choose = lambda *_: [works, hangs] if sys.argv[2] == "complete" else [hangs]
compare.only_from_bucket = lambda system: system
compare.Plan = partial(run.Plan, warm_up_s=0.0)
sys.exit(compare.main(["--photos", sys.argv[1], "--seconds", "0.5"]))
"""


@pytest.mark.parametrize("complete", [pytest.param(True, marks=pytest.mark.slow), False])
def test_ctrl_c_shows_what_is_complete_and_leaves_nothing_behind(tmp_path: Path, complete: bool) -> None:
    for number, photo in enumerate(camera_photos(8)):
        (tmp_path / f"{number}.jpg").write_bytes(photo)
    process = subprocess.Popen(
        [sys.executable, "-c", _COMMAND, str(tmp_path), "complete" if complete else "nothing"],
        cwd=ROOT,
        env={**os.environ, "CLIP_BENCH_PYTHON": sys.executable},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    while "stuck" not in process.stderr.readline():
        assert process.poll() is None
    children = psutil.Process(process.pid).children(recursive=True)
    assert children, "the bucket at least"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, err
    assert "stopped" in err
    assert ("origin, 1 worker" in out) == complete
    assert re.search(r"throughput +photos/s +- +- +\d", out) or not complete, out
    assert all_gone(children, timeout=PATIENCE_S)
