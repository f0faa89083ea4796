"""What a sweep refuses, with a sentence and an exit status, before it has started anything."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from clip_profile.cli import main
from clip_profile.load.perf_analyzer import VERSION, Load, arrival_gaps_us
from clip_profile.sweep.command import next_commands
from clip_serving.errors import ServerError
from clip_serving.server import perf_analyzer
from testing.pictures import camera_photos
from testing.repositories import rendered_repository
from tests.unit.profile.records import about, measurement, run_of


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    (folder / "one.jpg").write_bytes(camera_photos(1, seed=1)[0])
    return folder


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main([str(each) for each in arguments]) == 2
    text = capsys.readouterr().err
    assert "Traceback" not in text
    return text


def sweep(photos: Path, out: Path, *more: object) -> list[object]:
    return ["sweep", "--photos", photos, "--out", out / "run", "--budget", "0.1", *more]


def test_no_photos(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "is not a folder" in refused(capsys, *sweep(tmp_path / "nowhere", tmp_path))
    (tmp_path / "empty").mkdir()
    assert "is empty" in refused(capsys, *sweep(tmp_path / "empty", tmp_path))
    assert "copy some photos into one" in refused(capsys, *sweep(Path("gs://album"), tmp_path))
    assert not (tmp_path / "run").exists()


def test_photos_that_cannot_be_decoded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "bad"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(b"\xff\xd8\xff nothing")
    (folder / "b.txt").write_text("hello")
    text = refused(capsys, *sweep(folder, tmp_path))
    assert "none of 2 files in" in text
    assert "a.jpg: " in text


def test_a_repository_without_an_export(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = refused(capsys, *sweep(photos, tmp_path, "--repository", tmp_path))
    assert "holds no exported encoder. Run: clip-export" in text


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("cpu,tensorrt", "tensorrt.pbtxt needs Triton's backend onnxruntime"),
        ("torchscript", "torchscript.pbtxt needs Triton's backend pytorch"),
        ("cpu,", "config.pbtxt needs Triton's backend onnxruntime"),
        ("int7", "has no encoder configuration 'int7'"),
    ],
)
def test_a_format_that_the_embedded_server_cannot_have(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, told: str
) -> None:
    root = rendered_repository(tmp_path / "repository")
    text = refused(capsys, *sweep(photos, tmp_path, "--repository", root, "--model-config-name", name))
    assert told in text
    assert not (tmp_path / "run").exists()


def test_no_server_at_the_url(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"127.0.0.1:{probe.getsockname()[1]}"
    assert f"cannot connect to {url}: nothing" in refused(capsys, *sweep(photos, tmp_path, "--url", url))


def test_a_server_that_is_not_clip_triton(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A gRPC server that knows nothing of Triton."""
    stranger = grpc.server(ThreadPoolExecutor(1))
    port = stranger.add_insecure_port("127.0.0.1:0")
    stranger.start()
    try:
        text = refused(capsys, *sweep(photos, tmp_path, "--url", f"127.0.0.1:{port}"))
    finally:
        stranger.stop(None).wait()
    assert f"the server at 127.0.0.1:{port} does not serve clip_image" in text


def test_no_perf_analyzer(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> Path:
        raise ServerError("pip could not download the wheel")

    monkeypatch.setattr(perf_analyzer, "prepare", missing)
    assert "perf_analyzer is missing: pip could not download" in refused(capsys, *sweep(photos, tmp_path))


@pytest.mark.parametrize(
    ("says", "told"),
    [
        ("echo 'Perf Analyzer Version 9.9.9 (commit x)'", "has another version (9.9.9)"),
        ("exit 3", "has another version (no output)"),
    ],
)
def test_another_perf_analyzer(
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    says: str,
    told: str,
) -> None:
    binary = tmp_path / "perf_analyzer"
    binary.write_text(f"#!/bin/sh\n{says}\n")
    binary.chmod(0o755)
    monkeypatch.setattr(perf_analyzer, "prepare", lambda: binary)
    text = refused(capsys, *sweep(photos, tmp_path))
    assert told in text
    assert f"reads the files of perf_analyzer {VERSION}" in text


@pytest.mark.parametrize("command", ["recommend", "compare", "report"])
def test_a_folder_that_is_not_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert "is not a run folder of clip-profile" in refused(capsys, command, tmp_path)


def test_a_run_without_measurements_has_no_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_of(tmp_path)
    assert run.about == about()
    assert main(["recommend", str(run.path)]) == 2
    assert "has no measurements yet" in capsys.readouterr().err


def test_apply_and_undo_say_which_files_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_of(tmp_path, measurement())
    repository = rendered_repository(tmp_path / "repository", preprocess_instances=9)
    command = ["recommend", str(run.path), "--repository", str(repository)]
    assert main([*command, "--undo"]) == 2
    assert "nothing was applied from" in capsys.readouterr().err
    assert main([*command, "--apply"]) == 0
    said = capsys.readouterr().err
    assert f"applied to {repository}: deployment.json, clip_image" in said
    assert f"undo: clip-profile recommend {run.path} --undo --repository {repository}" in said
    assert main([*command, "--undo"]) == 0
    assert f"restored in {repository}: deployment.json, clip_image" in capsys.readouterr().out


def test_the_next_commands_have_the_bound_of_the_sweep() -> None:
    assert next_commands(Path("my run"), 500.0) == (
        "next: clip-profile recommend 'my run' --p95-ms 500; clip-profile report 'my run' --p95-ms 500"
    )
    assert next_commands(Path("run"), None) == "next: clip-profile recommend run; clip-profile report run"


def test_tls_without_a_url(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "TLS and headers need --url" in refused(capsys, *sweep(photos, tmp_path, "--ssl"))


@pytest.mark.parametrize(
    "arguments",
    [
        ["--budget", "0"],
        ["--budget", "inf"],
        ["--rounds", "-1"],
        ["--header", "no colon"],
        ["--concurrency", "-1"],
        ["--seconds", "x"],
        ["--finalists", "0"],
    ],
)
def test_nonsense_is_refused_by_the_parser(tmp_path: Path, arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["sweep", "--photos", str(tmp_path), "--out", str(tmp_path), *arguments])


def test_arrivals_have_their_rate_and_are_the_same_for_the_same_seed() -> None:
    load = Load("poisson", 20.0, 1, rate=50.0, seed=1)
    gaps = arrival_gaps_us(load)
    assert sum(gaps) / len(gaps) == pytest.approx(1e6 / 50, rel=0.01)
    assert gaps == arrival_gaps_us(load)
    assert gaps != arrival_gaps_us(Load("poisson", 20.0, 1, rate=50.0, seed=2))
    # A Poisson process: the gaps' standard deviation is their mean.
    mean = sum(gaps) / len(gaps)
    deviation = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
    assert deviation == pytest.approx(mean, rel=0.1)
