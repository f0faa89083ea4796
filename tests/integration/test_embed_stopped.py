"""`clip-embed` runs that are stopped or cannot go on: what was finished is kept, and another run goes on."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import uuid
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from clip_client import ClipClient, embed_all, open_sink
from clip_client.sources.gcs import GcsSource
from clip_serving.repository.stage import InstanceLayout
from clip_serving.server.embedded import ServerOptions, TritonServer
from testing.fake_gcs import FakeGcs
from testing.pictures import camera_photos
from tests.integration.embed_command import clip_embed, rows_of

_MANY = 100


@pytest.fixture(scope="module")
def many(fake_gcs: FakeGcs) -> str:
    """A bucket of more photos than are embedded, one at a time, before a signal arrives."""
    name = f"many-{uuid.uuid4().hex[:8]}"
    photos = camera_photos(5, seed=7)
    for index in range(_MANY):
        fake_gcs.upload(name, f"{index:03d}.jpg", photos[index % 5])
    return name


def interrupted(number: signal.Signals, *arguments: str) -> subprocess.CompletedProcess[str]:
    """clip-embed with one photo at a time, sent a signal as soon as it has counted some."""
    command = [sys.executable, "-m", "clip_client.cli", *arguments, "--concurrency", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        _wait_for_photos(process)
        process.send_signal(number)
        summary, said = process.communicate(timeout=60)
    return subprocess.CompletedProcess(command, process.returncode, summary, said)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_same_command_goes_on_after_a_signal(
    server: TritonServer, many: str, tmp_path: Path, number: signal.Signals
) -> None:
    out = tmp_path / "out.parquet"
    arguments = (f"gs://{many}", "--out", str(out), "--url", server.grpc_url, "--json")
    stopped = interrupted(number, *arguments)
    assert stopped.returncode == 130, stopped.stderr
    assert not out.exists(), "a file under this name is a whole one"
    summary = json.loads(stopped.stdout)
    kept = summary["embedded"]
    assert 0 < kept == summary["photos"] < _MANY
    assert summary["kept_in"] == f"{out}.parts"
    assert f"{out}.parts: {kept} rows" in stopped.stderr
    assert "again with the same command" in stopped.stderr
    done = clip_embed(*arguments)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["skipped"] == kept
    assert len(rows_of(out)) == _MANY
    assert [path.name for path in tmp_path.iterdir()] == ["out.parquet"]


def test_a_signal_ends_a_run_whose_server_hangs(server: TritonServer, many: str, tmp_path: Path) -> None:
    """At once, and not after the deadline of the requests in flight."""
    out = tmp_path / "out.parquet"
    command = [sys.executable, "-m", "clip_client.cli", f"gs://{many}", "--out", str(out), "--timings"]
    command += ["--url", server.grpc_url, "--concurrency", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        _wait_for_photos(process)
        os.kill(server.pid, signal.SIGSTOP)
        try:
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=30)
        finally:
            os.kill(server.pid, signal.SIGCONT)
    assert process.returncode == 130, said
    assert "again with the same command" in said
    assert "Traceback" not in said


def test_an_overwriting_run_that_was_stopped_forgets_the_old_file(
    server: TritonServer, many: str, tmp_path: Path
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "old.jpg").write_bytes(camera_photos(1, seed=5)[0])
    out = tmp_path / "out.parquet"
    options = ("--out", str(out), "--url", server.grpc_url, "--json")
    assert clip_embed(str(tmp_path / "photos"), *options).returncode == 0
    stopped = interrupted(signal.SIGINT, f"gs://{many}", *options, "--overwrite")
    assert stopped.returncode == 130, stopped.stderr
    assert "--resume instead of --overwrite" in stopped.stderr
    assert list(rows_of(out)) == ["old.jpg"], "until all is done"
    done = clip_embed(f"gs://{many}", *options, "--resume")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["skipped"] == json.loads(stopped.stdout)["embedded"]
    assert sorted(rows_of(out)) == [f"{index:03d}.jpg" for index in range(_MANY)]


def _wait_for_photos(process: subprocess.Popen[str]) -> None:
    """Until the progress bar has counted a photo."""
    assert process.stderr is not None
    seen = ""
    while not re.search(r"[1-9]\d* photos \[", seen):
        character = process.stderr.read(1)
        assert character, seen
        seen += character


def test_a_full_disk_keeps_what_was_finished(server: TritonServer, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for index in range(12):
        (photos / f"{index:02d}.jpg").write_bytes(camera_photos(1, seed=index)[0])
    out = tmp_path / "o.parquet"
    arguments = (str(photos), "--out", str(out), "--url", server.grpc_url)

    def no_room() -> None:
        # The kernel refuses the write just as a full disk does, with another errno.
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    done = clip_embed(*arguments, preexec_fn=no_room)
    assert done.returncode == 2, done.stderr
    assert "cannot write" in done.stderr
    assert "again with the same command" in done.stderr
    assert not out.exists()
    again = clip_embed(*arguments)
    assert again.returncode == 0, again.stderr
    assert len(rows_of(out)) == 12


def test_a_server_gone_in_the_middle_keeps_what_was_finished(
    small_repository: Path, fake_gcs: FakeGcs, tmp_path: Path
) -> None:
    name = f"gone-{uuid.uuid4().hex[:8]}"
    photos = camera_photos(4, seed=8)
    for index in range(60):
        fake_gcs.upload(name, f"{index:03d}.jpg", photos[index % 4])
    out = tmp_path / "o.parquet"
    layout = InstanceLayout(1, 1, 1, 1)
    with (
        TritonServer(small_repository, ServerOptions(layout=layout, supervise=False)) as server,
        ClipClient(server.grpc_url, deadline_s=3) as client,
    ):
        counted = threading.Event()
        failure: list[Exception] = []

        def run() -> None:
            try:
                source = GcsSource(name, "", 4)
                embed_all(client, source, open_sink(str(out)), on_item=lambda _: counted.set())
            except Exception as error:
                failure.append(error)

        worker = threading.Thread(target=run)
        worker.start()
        assert counted.wait(30)
        server.stop()
        worker.join(60)
    assert "no answer from the server" in str(failure[0])
    parts = list(out.with_name("o.parquet.parts").glob("shard-*.parquet"))
    rows = [row for part in parts for row in pq.read_table(part).to_pylist()]
    assert {row["error_text"] for row in rows} == {None}, "a server that stops is not the photos' fault"
    kept = len(rows)
    assert 0 < kept < 60
    with TritonServer(small_repository, ServerOptions(layout=layout, supervise=False)) as server:
        done = clip_embed(f"gs://{name}", "--out", str(out), "--url", server.grpc_url, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["skipped"] == kept
    assert len(rows_of(out)) == 60
