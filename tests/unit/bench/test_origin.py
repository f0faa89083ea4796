"""`make compare-origin`: the table of both, what is said where something is missing, and Ctrl-C."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.contenders import contenders, only_from_bucket
from benchmarks.origin import compare as origin
from benchmarks.origin import compare_run as origin_run
from benchmarks.origin.compare import KEYS, Measured, rows_of, to_dict, to_text
from benchmarks.origin.compare_command import main
from benchmarks.results import FORMAT, Results
from benchmarks.results import Window as Written
from clip_profile.answer.compare import Row
from clip_profile.errors import ProfileError
from clip_serving import defaults
from clip_serving.encoder.cpu import Cpu
from testing.repositories import rendered_repository

ROOT = Path(__file__).parents[3]
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


def written(key: str, number: int, **changes: Any) -> Written:
    """As the benchmark has it; a pass later everything takes a fiftieth longer."""
    ours = key.startswith("ours")
    drift = 1 + number / 50
    stages = {name: (ms * drift, 40) for name, ms in (OURS if ours else THEIRS).items()}
    made = Written(
        key=key, number=number, images_per_s=15.0 / drift, service_cpu_ms=120.0, client_cpu_ms=10.0,
        peak_rss=2 * 2**30, client_peak_rss=10**8, latencies_ms=[], others=0.01, stages=stages, busy=0.9,
        photos_per_request=1 if ours else 8,
    )  # fmt: skip
    return dataclasses.replace(made, **changes)


def file(folder: Path, *windows: Written, failures: list[tuple[str, int, str]] | None = None) -> Path:
    results = Results({"CPU": "a fast one"}, {"photos": "40"}, list(windows), failures=failures or [])
    results.save(folder / "results.json")
    return folder / "results.json"


def three_passes() -> list[Written]:
    slower = {"stages": {**{name: (ms, 40) for name, ms in THEIRS.items()}, "preprocess": (200.0, 40)}}
    return [
        written(key, number, **(slower if key == "origin-3" else {})) for number in (1, 2, 3) for key in KEYS
    ]


@pytest.fixture
def measured(tmp_path: Path) -> Measured:
    return Measured.load(file(tmp_path, *three_passes()), memory_gb=16.0)


def row(measured: Measured, name: str, unit: str) -> Row:
    (found,) = [row for row in rows_of(measured) if (row.name, row.unit) == (name, unit)]
    return found


def means(found: Row) -> list[float | None]:
    return [cell.mean if cell else None for cell in found.cells]


def test_the_benchmark_has_what_is_asked_of_it() -> None:
    found = {contender.key: only_from_bucket(contender) for contender in contenders(2, Cpu.here())}
    assert [drive.key for key in KEYS for drive in found[key].drives] == list(KEYS)
    assert not found["litserve"].drives
    assert origin.FORMAT == FORMAT


def test_the_docs_have_the_same_published_figures(measured: Measured) -> None:
    page = (ROOT / "docs" / "origin.md").read_text(encoding="utf-8")
    for line in rows_of(measured):
        if line.cells[0] and line.cells[1]:
            figures = r"[ %]*\| ".join(f"{re.escape(f'{cell.mean:g}')}0?" for cell in line.cells[:2] if cell)
            assert re.search(rf"\| {figures}[ %]*\|", page), (line.name, line.unit)


def test_stages_come_first_and_resources_last(measured: Measured) -> None:
    rows = rows_of(measured)
    groups = [row.group for row in rows]
    assert groups == sorted(groups, key=["stages", "whole", "resources"].index)
    names = list(dict.fromkeys(row.name for row in rows if row.group == "stages"))
    assert names == ["load", "decode", "load + decode", "preprocess", "embed", "queue"]


def test_changes_are_against_fewer_workers_and_against_one(measured: Measured) -> None:
    found = row(measured, "preprocess", "ms a request")
    assert found.changes[1] == pytest.approx(147.84, abs=0.01)
    assert found.changes[0] is None
    assert found.changes[2] is None
    assert found.changes[3] == pytest.approx(0.0)
    assert found.changes[4] == pytest.approx(100 * (200.0 / (160.0 * 1.04) - 1))
    assert found.proved == (None, None, None, False, True, None)


def test_only_what_is_alike_is_compared(measured: Measured) -> None:
    """A request of the origin's holds eight photos, one of ours one: a photo's share is compared."""
    assert means(row(measured, "embed", "ms a request"))[5] is None
    assert means(row(measured, "load + decode", "ms a request"))[5] is None
    assert means(row(measured, "embed", "ms a photo"))[2::3] == [
        pytest.approx(1300 * 1.04 / 8),
        pytest.approx(320.0 / 4),
    ]
    preprocess = row(measured, "preprocess", "ms a photo")
    assert preprocess.changes[5] == pytest.approx(100 * (10.0 / (160.0 / 8) - 1))
    assert means(row(measured, "queue", "ms a request"))[2:] == [None, None, None, pytest.approx(253 * 1.04)]
    assert means(row(measured, "memory", "% of the machine"))[2:] == [12.5] * 4


def test_a_single_pass_has_no_spread_and_proves_nothing(tmp_path: Path) -> None:
    once = Measured.load(file(tmp_path, *(written(key, 1) for key in KEYS)), 16.0)
    for found in rows_of(once):
        assert all(cell is None or cell.half is None for cell in found.cells)
        assert set(found.proved) == {None}


def test_the_table_and_the_json_hold_the_same(measured: Measured) -> None:
    lines = to_text(measured).splitlines()
    (line,) = [line for line in lines if line.startswith("load  ")]
    assert line.split()[:6] == ["load", "ms", "a", "photo", "204.5", "105.8"]
    assert "passes: 3" in lines
    values = json.loads(json.dumps(to_dict(measured)))
    assert len(values["columns"]) == 6
    (load,) = [row for row in values["rows"] if row["name"] == "load"]
    assert load["mean"][:2] == [204.48, 105.82]
    assert load["change_percent"][1] == pytest.approx(-48.25, abs=0.01)


def test_what_could_not_be_measured_is_said(tmp_path: Path) -> None:
    windows = [window for window in three_passes() if window.key != "origin-3"]
    found = Measured.load(file(tmp_path, *windows, failures=[("origin-3", 1, "no memory")]), 16.0)
    assert found.missing() == ["3 workers"]
    assert "origin-3, pass 1: no memory" in to_text(found)
    assert all(line.cells[4] is None for line in rows_of(found))


def test_figures_of_another_version_are_refused(tmp_path: Path) -> None:
    path = file(tmp_path, written("origin-1", 1))
    path.write_text(path.read_text().replace('"format": 1', '"format": 0'))
    with pytest.raises(ProfileError, match=r"format 0.*one and the same clone"):
        Measured.load(path, 16.0)


# --- what is missing ---------------------------------------------------------------------------


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main([*map(str, arguments)]) == 2
    text = capsys.readouterr().err
    assert "Traceback" not in text
    return text


def test_no_environment_of_the_origin(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(origin_run.PYTHON_VARIABLE, str(tmp_path / "python"))
    text = refused(capsys)
    assert f"{tmp_path / 'python'}, the Python of the origin's service, is missing" in text
    assert "make setup-bench" in text


@pytest.fixture
def without_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Python that lacks the origin's packages: nothing would start with it."""
    monkeypatch.setenv(origin_run.PYTHON_VARIABLE, sys.executable)


@pytest.mark.usefixtures("without_peers")
def test_too_few_photos(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = refused(capsys, "--photos", tmp_path)
    assert f"nothing could be measured: {tmp_path} holds 0 JPEGs; at least 8" in text


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
    assert f"{sys.executable} has not all that the peers need" in text
    assert "make setup-bench" in text


# --- Ctrl-C ------------------------------------------------------------------------------------

# Stands for the benchmark: writes what it has when it is interrupted, and ends by itself.
_BENCHMARK = """
import json, signal, sys, time
def stop(*_):
    raise KeyboardInterrupt
signal.signal(signal.SIGINT, stop)
try:
    print("bench: 12:00:00 pass 1: origin-1: 9.0 images/s", file=sys.stderr, flush=True)
    time.sleep(600)
except KeyboardInterrupt:
    time.sleep(0.2)
    if len(sys.argv) > 1:
        open(sys.argv[2], "w").write(open(sys.argv[1]).read())
"""
_COMMAND = """
import sys
from pathlib import Path
from benchmarks.origin import compare_run as origin_run
from benchmarks.origin.compare_command import main
arguments = sys.argv[1:]
origin_run._command = lambda options, data: [
    sys.executable, "-c", {program!r}, *arguments, *([str(data)] if arguments else [])
]
sys.exit(main([]))
"""


@pytest.mark.parametrize("complete", [True, False])
def test_ctrl_c_shows_what_is_complete_and_leaves_nothing_behind(tmp_path: Path, complete: bool) -> None:
    results = [str(file(tmp_path, written("origin-1", 1)))] if complete else []
    process = subprocess.Popen(
        [sys.executable, "-c", _COMMAND.format(program=_BENCHMARK), *results],
        cwd=ROOT,
        env={**os.environ, origin_run.PYTHON_VARIABLE: sys.executable},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    while "origin-1" not in process.stderr.readline():
        assert process.poll() is None
    (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "stopped" in err
    assert ("origin, 1 worker" in out) == complete
    end = time.monotonic() + 5
    while Path(f"/proc/{child}").exists():
        assert time.monotonic() < end, "the benchmark goes on"
        time.sleep(0.05)
