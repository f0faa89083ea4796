"""A short real sweep: the embedded tritonserver, the real perf_analyzer, Ctrl-C, and on to the answer."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from clip_profile.cli import main
from clip_profile.load.perf_analyzer import VERSION
from clip_profile.records.measurement import EMBED, PREPROCESS
from clip_profile.records.run_folder import RunFolder
from clip_profile.records.setting import Setting
from clip_profile.sweep.target import EmbeddedTarget
from clip_serving.repository.spec import ModelSpec
from clip_serving.server.embedded import TritonServer
from testing.pictures import camera_photos
from testing.processes import all_gone
from testing.waiting import PATIENCE_S

_SMALL = [
    "--preprocess-instances", "1", "--encoder-instances", "1", "--encoder-threads", "1", "--max-batch", "8",
    "--encoder-precision", "int8", "--queue-delay-us", "0", "--concurrency", "1,3", "--seconds", "1.5",
    "--budget", "10", "--finalists", "1", "--rounds", "1",
]  # fmt: skip


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for index, photo in enumerate(camera_photos(3, seed=20)):
        (folder / f"{index}.jpg").write_bytes(photo)
    (folder / "notes.txt").write_text("not a photo")
    return folder


@pytest.mark.slow
def test_a_sweep_survives_ctrl_c_and_leads_to_a_report(
    photos: Path, small_repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    command = ["sweep", "--photos", str(photos), "--repository", str(small_repository)]
    command += ["--out", str(run), *_SMALL]
    before = {path: path.read_bytes() for path in small_repository.rglob("*.pbtxt")}
    with subprocess.Popen(
        [sys.executable, "-m", "clip_profile.cli", *command], stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        said = ""
        while "search:" not in said:
            line = process.stderr.readline()
            assert line, said
            said += line
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, said + rest
    assert "skipped files that are too large or cannot be decoded: 1" in said
    assert "the measurements so far are kept" in rest
    assert all_gone(family, timeout=PATIENCE_S)
    kept = RunFolder.load(run).measurements
    assert kept

    assert main(command) == 0, capsys.readouterr().err
    done = RunFolder.load(run)
    assert done.measurements[: len(kept)] == kept
    assert {(one.setting.concurrency, one.round, one.arrival) for one in done.measurements} >= {
        (1, None, "closed"), (3, None, "closed"),
    }  # fmt: skip
    assert [one.arrival for one in done.measurements if one.round and one.round.number == 1] == [
        "closed",
        "poisson",
    ]
    for one in done.measurements:
        assert one.setting.encoder_precision == "int8"
        assert one.photos_per_s > 0
        assert 0 < one.p50_ms <= one.p95_ms <= one.p99_ms
        server = one.resources.server
        assert server is not None
        assert server.cpu_ms_per_photo is not None
        assert server.rss_mb is not None
        assert one.stages[EMBED].compute_ms > 0
        assert one.stages[PREPROCESS].mean_batch >= 1
        assert one.stages[EMBED].cpu_ms_per_photo is not None
        assert one.decode_ms is not None
        assert one.decode_ms > 0
        assert one.resources.gpu is None or os.path.exists("/dev/nvidia0")
    assert {path: path.read_bytes() for path in small_repository.rglob("*.pbtxt")} == before

    capsys.readouterr()
    assert main(["recommend", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["setting"]["preprocess_instances"] == 1
    assert main(["recommend", str(run), "--p95-ms", "0.01"]) == 1
    assert main(["compare", str(run)]) == 0
    assert main(["report", str(run), "--html", str(tmp_path / "report.html")]) == 0
    assert "<svg" in (tmp_path / "report.html").read_text()


def test_a_server_that_died_unnoticed_is_restarted(small_repository: Path) -> None:
    """After its last run nobody asked: the next setting is innocent of it."""
    wanted = Setting("cpu", "int8", 1, 1, 1, 8, 0, 1, 1)
    with EmbeddedTarget(small_repository, camera_photos(1, seed=21)) as target:
        first = target.serve(wanted)
        assert target.serve(wanted) is first
        stub = psutil.Process(first.server.pids[EMBED][0])
        stub.kill()
        assert all_gone([stub], timeout=PATIENCE_S)
        second = target.serve(wanted)
        assert second.server.triton.is_server_live()
        assert set(second.server.pids[EMBED]).isdisjoint(first.server.pids[EMBED])


@pytest.mark.slow
def test_a_running_server_is_measured_unchanged(
    photos: Path,
    small_repository: Path,
    server: TritonServer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    command = [
        "sweep",
        "--photos",
        str(photos),
        "--url",
        server.grpc_url,
        "--metrics-url",
        server.metrics_url,
    ]
    fixed = [*command, "--out", str(run), "--encoder-threads", "4"]
    assert main(fixed) == 2
    assert "encoder_threads cannot be changed on a running server" in capsys.readouterr().err
    load = ["--concurrency", "2", "--seconds", "1.5", "--rounds", "0", "--budget", "5"]
    assert main([*command, "--out", str(run), *load]) == 0, capsys.readouterr().err
    assert f"at {server.grpc_url}, the client on " in capsys.readouterr().err
    # It goes on with the run's own seconds, whatever the budget, and not with others.
    longer = ["--concurrency", "2", "--rounds", "0", "--budget", "50"]
    assert main([*command, "--out", str(run), *longer]) == 0
    assert main([*command, "--out", str(run), *longer, "--seconds", "2"]) == 2
    assert "different seconds (1.5 there, 2.0 now): old and new" in capsys.readouterr().err
    spec = ModelSpec.load(small_repository / "clip_image_encoder" / "1" / "spec.json")
    measured = RunFolder.load(run)
    assert measured.about.served["weights_sha256"] == spec.weights_sha256
    assert measured.about.model == f"{spec.model} ({spec.pretrained})"
    assert measured.about.versions["tritonserver"].startswith("2.")
    assert measured.about.versions["perf_analyzer"] == VERSION
    assert "cykooz-resizer" in measured.about.versions
    (one,) = measured.measurements
    assert one.setting.preprocess_instances == server.layout.preprocess_instances
    assert one.setting.encoder_instances == server.layout.encoder_instances
    assert one.resources.server is None, "its processes may be anywhere"
    assert one.decode_ms is not None
    assert one.photos_per_s > 0
