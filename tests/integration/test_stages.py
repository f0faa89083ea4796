"""`clip-profile stages` against real servers: a bucket's photos, whose parts add up; deaths, and Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tritonclient.grpc import InferenceServerClient

from clip_client import ConnectionOptions
from clip_client.timings import STAGES, ServerTimes
from clip_profile.cli import main
from clip_profile.load import server as load_server
from clip_profile.load.connection import connect
from clip_profile.stages.result import FIGURES
from clip_serving.repository.stage import InstanceLayout
from clip_serving.server.embedded import ServerOptions, TritonServer
from testing.fake_gcs import FakeGcs
from testing.pictures import camera_photos, corrupt_pictures
from testing.servers import short_lived
from testing.waiting import PATIENCE_S, wait_until

_ENCODER = "clip_image_encoder"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photos")
    for index, photo in enumerate(camera_photos(3, seed=30)):
        (path / f"{index}.jpg").write_bytes(photo)
    return path


@pytest.fixture(scope="module")
def bucket(fake_gcs: FakeGcs) -> str:
    name = f"bucket-{uuid.uuid4().hex[:8]}"
    for index, photo in enumerate(camera_photos(4, seed=31)):
        fake_gcs.upload(name, f"2024/{index}.jpg", photo)
    fake_gcs.upload(name, "2024/half.jpg", corrupt_pictures()["jpeg_half"][0])
    fake_gcs.upload(name, "2024/none.jpg", b"")
    return f"gs://{name}/2024/"


@pytest.fixture(scope="module")
def mortal(small_repository: Path) -> Iterator[TritonServer]:
    """A server that nobody starts again, to be killed by the last of the tests that use it."""
    layout = InstanceLayout(1, 1, 1, 1)
    with short_lived(small_repository, ServerOptions(layout=layout)) as running:
        yield running


def encoder_times(url: str) -> ServerTimes:
    with InferenceServerClient(url) as client:
        return ServerTimes.of(client.get_inference_statistics(_ENCODER).model_stats[0])


@contextmanager
def trace_setting(server: TritonServer, **settings: object) -> Iterator[None]:
    """The model's own, in place of what holds for all models."""
    with connect(server.grpc_url, ConnectionOptions(headers=server.admin_headers)) as client:
        client.update_trace_settings("clip_image", settings=settings)
        try:
            yield
        finally:
            client.update_trace_settings("clip_image", settings=dict.fromkeys(settings))


def trace_settings(server: TritonServer) -> Any:
    with connect(server.grpc_url, ConnectionOptions(headers=server.admin_headers)) as client:
        return client.get_trace_settings("clip_image", as_json=True)["settings"]


def wait_for_requests(url: str, n: int) -> None:
    before = encoder_times(url).requests
    wait_until(lambda: encoder_times(url).requests >= before + n, f"{n} requests")


def test_photos_that_the_client_decodes(
    server: TritonServer, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load = ["--concurrency", "2", "--count", "6", "--warm-up", "0", "--json"]
    photos = ["stages", "--photos", str(folder), "--url", server.grpc_url]
    assert main([*photos, "--decode", "client", *load]) == 0, capsys.readouterr().err
    told = json.loads(capsys.readouterr().out)
    assert (told["load"]["decode"], told["queue_from"]) == ("client", "statistics")
    assert told["mean_batch"].keys() == {"embed"}
    known = [told["per_request"][stage]["mean_ms"] for stage in (*STAGES, "whole")]
    assert all(isinstance(value, float) for value in known)
    assert told["notes"][0].endswith("photos are not decoded by the server that traces")


def test_a_bucket_through_a_running_server(
    server: TritonServer, bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings, before = trace_settings(server), encoder_times(server.grpc_url)
    out = tmp_path / "stages.json"
    load = ["--concurrency", "3", "--images-per-request", "2", "--count", "16", "--warm-up", "0"]
    command = ["stages", "--photos", bucket, "--url", server.grpc_url, *load, "--out", str(out), "--json"]

    def measured() -> Any:
        out.unlink(missing_ok=True)
        assert main(command) == 0, capsys.readouterr().err
        return json.loads(capsys.readouterr().out)

    def unaccounted(told: Any) -> float:
        """The share of a request's time that is in no stage; four clocks measure them."""
        *stages, whole = (float(told["per_request"][stage]["mean_ms"]) for stage in (*STAGES, "whole"))
        return 1 - sum(stages) / whole

    # A busy machine lets our threads wait between two stages, now and then for long.
    told = next((one for _ in range(20) if abs(unaccounted(one := measured())) < 0.03), None)
    assert told is not None, "the stages never added up"
    assert told == json.loads(out.read_text())

    assert told["queue_from"] == "traces"
    assert told["failed"] == {"empty": 1, "truncated": 1}
    assert told["photos"] >= 16
    for block in ("per_photo", "per_request"):
        assert list(told[block]) == [*STAGES, "whole"]
        for stage, one in told[block].items():
            ms = [one[f"{name}_ms"] for name in FIGURES]
            assert all(value is not None and value >= 0 for value in ms), (block, stage, one)
            assert one["min_ms"] <= one["p50_ms"] <= one["p95_ms"] <= one["p99_ms"] <= one["max_ms"]
    request = told["per_request"]
    parts = {stage: request[stage]["mean_ms"] for stage in STAGES}
    assert min(parts["load"], parts["decode"], parts["preprocess"], parts["embed"]) > 0.1
    assert told["per_photo"]["whole"]["mean_ms"] == pytest.approx(request["whole"]["mean_ms"] / 2, rel=0.1)
    # Triton's own mean is over the warm-up too, whose first executions are slow.
    after = encoder_times(server.grpc_url).since(before)
    assert 1 / 4 < parts["embed"] / (1000 * after.mean_s(after.compute_ns)) < 4

    assert told["about"]["versions"]["tritonserver"].startswith("2.")
    used = told["resources"]
    assert used["server"]["cpu_ms_per_photo"] > 1
    assert used["server"]["rss_mb"]["peak"] >= used["server"]["rss_mb"]["mean"] > 100
    assert set(used["server"]["cpu_ms_per_photo_by_role"]) == {"server", "preprocess", "embed"}
    assert used["client"]["cpu_ms_per_photo"] > 0
    assert used["client"]["rss_mb"]["peak"] > 10
    assert ("gpu" in used) == Path("/dev/nvidia0").exists()
    assert trace_settings(server) == settings
    traces = Path(settings["trace_file"]["value"][0])
    assert not list(traces.parent.glob("traces.json*")), "files of ours are removed"

    assert main([*command[:-3], "--out", str(out)]) == 2
    assert "exists already" in capsys.readouterr().err


def test_a_server_on_another_machine_reports_only_means(
    server: TritonServer,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(load_server, "_listener", lambda _: None)
    settings = trace_settings(server)
    load = ["--concurrency", "2", "--count", "6", "--warm-up", "0", "--metrics-url", server.metrics_url]
    command = ["stages", "--photos", str(folder), "--url", server.grpc_url, *load, "--json"]
    assert main(command) == 0, capsys.readouterr().err
    told = json.loads(capsys.readouterr().out)
    assert told["queue_from"] == "statistics"
    for stage in ("transport", "queue", "embed"):
        assert told["per_request"][stage]["mean_ms"] is not None
        assert told["per_request"][stage]["p95_ms"] is None
    request = told["per_request"]
    assert 0 < request["embed"]["mean_ms"] < request["whole"]["max_ms"]
    assert any("not on this machine" in note for note in told["notes"])
    assert told["resources"]["server"] is None
    assert told["resources"]["server_machine"]["memory_percent"]["mean"] > 0
    assert trace_settings(server) == settings


def test_traces_of_another_client_are_left_alone(
    server: TritonServer, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = server.grpc_url
    command = ["stages", "--photos", str(folder), "--url", url, "--count", "2", "--concurrency", "1"]
    with trace_setting(server, trace_level=["TIMESTAMPS"], trace_rate="1000"):
        settings = trace_settings(server)
        assert main([*command, "--warm-up", "0", "--json"]) == 0
        assert trace_settings(server) == settings
    told = json.loads(capsys.readouterr().out)
    assert told["queue_from"] == "statistics"
    assert any("another client" in note for note in told["notes"])
    with trace_setting(server, trace_rate="7", log_frequency="3"):
        settings = trace_settings(server)
        assert main([*command, "--warm-up", "0", "--json"]) == 0
        assert trace_settings(server) == settings, "the model's own are put back as they were"
    assert json.loads(capsys.readouterr().out)["queue_from"] == "traces"


def test_the_embedded_server_and_its_table(
    small_repository: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layout = ["--preprocess-instances", "1", "--encoder-instances", "1"]
    load = ["--concurrency", "2", "--seconds", "1.5", "--warm-up", "0"]
    command = ["stages", "--photos", str(folder), "--repository", str(small_repository), *layout, *load]
    assert main(command) == 0, capsys.readouterr().err
    table = capsys.readouterr().out
    lines = {line.split()[0]: line.split() for line in table.splitlines() if line}
    for stage in (*STAGES, "whole"):
        assert len(lines[stage]) == 1 + len(FIGURES), table
    assert "server: CPU, ms per photo" in table
    assert "client: memory, MB" in table
    assert "GPU" not in table or Path("/dev/nvidia0").exists()


def test_a_folder_without_a_valid_photo(
    server: TritonServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad, out = tmp_path / "bad", tmp_path / "out.json"
    bad.mkdir()
    (bad / "a.txt").write_text("hello")
    (bad / "b.jpg").write_bytes(b"")
    command = ["stages", "--photos", str(bad), "--url", server.grpc_url, "--seconds", str(2 * PATIENCE_S)]
    begin = time.monotonic()
    assert main([*command, "--out", str(out)]) == 2
    assert time.monotonic() - begin < PATIENCE_S, "there is nothing to wait for"
    told = capsys.readouterr().err
    assert "none of the 2 photos" in told
    assert "a.txt: unsupported_format" in told
    assert json.loads(out.read_text())["failed"] == {"empty": 1, "unsupported_format": 1}


def test_ctrl_c_shows_what_was_measured(mortal: TritonServer, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    load = ["--concurrency", "2", "--seconds", str(2 * PATIENCE_S), "--warm-up", "0", "--out", str(out)]
    command = ["stages", "--photos", str(folder), "--url", mortal.grpc_url, *load]
    settings = trace_settings(mortal)
    with subprocess.Popen(
        [sys.executable, "-m", "clip_profile.cli", *command],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        wait_for_requests(mortal.grpc_url, 8)
        process.send_signal(signal.SIGINT)
        shown, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, said
    assert "stopped by Ctrl-C" in shown
    assert "embed" in shown
    told = json.loads(out.read_text())
    assert told["photos"] >= 2
    assert trace_settings(mortal) == settings, "put back, whatever ends it"


def test_a_server_that_dies_leaves_what_was_measured(
    mortal: TritonServer, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, pid = tmp_path / "out.json", mortal.pid

    def kill() -> None:
        wait_for_requests(mortal.grpc_url, 30)
        os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    load = ["--concurrency", "2", "--seconds", str(2 * PATIENCE_S), "--warm-up", "0", "--out", str(out)]
    begin = time.monotonic()
    status = main(["stages", "--photos", str(folder), "--url", mortal.grpc_url, *load])
    killer.join()
    captured = capsys.readouterr()
    assert status == 1, captured.err
    assert time.monotonic() - begin < PATIENCE_S
    assert f"the server at {mortal.grpc_url} no longer answers" in captured.err
    told = json.loads(out.read_text())
    assert told["photos"] >= 10
    # The last few traces died with the server; the others are there.
    assert told["per_request"]["embed"]["count"] >= 10
    assert told["per_request"]["load"]["p95_ms"] is not None
    assert "no longer answers" in captured.out
