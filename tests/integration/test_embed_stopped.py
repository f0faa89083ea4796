"""`clip-embed` runs that are stopped or cannot go on: what was finished is kept, and another run goes on."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from clip_client import ClipClient, embed_all, open_sink
from clip_client.sources.base import ObjectInfo
from clip_client.sources.gcs import GcsSource
from clip_serving.repository.stage import InstanceLayout
from clip_serving.server.embedded import ServerOptions, TritonServer
from testing.fake_gcs import FakeGcs
from testing.hanging import HANGING_PHOTO, Gate, hanging_repository
from testing.pictures import camera_photos
from testing.servers import short_lived
from testing.waiting import PATIENCE_S
from tests.integration.embed_command import clip_embed, embed_command, rows_of

_ONE_EACH = InstanceLayout(1, 1, 1, 1)


@pytest.fixture(scope="module")
def many(fake_gcs: FakeGcs) -> str:
    """A bucket of 60 photos, one of which hangs while the gate is closed: no run gets past it."""
    name = f"many-{uuid.uuid4().hex[:8]}"
    photos = camera_photos(5, seed=7)
    for index in range(60):
        photo = HANGING_PHOTO if index == 30 else photos[index % 5]
        fake_gcs.upload(name, f"{index:03d}.jpg", photo)
    return name


@pytest.fixture(scope="module")
def gate(small_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Gate:
    root = tmp_path_factory.mktemp("gated") / "repository"
    return hanging_repository(small_repository, root, decode_timeout_s=10 * PATIENCE_S)


@pytest.fixture(scope="module")
def gated(gate: Gate) -> Iterator[TritonServer]:
    options = ServerOptions(layout=_ONE_EACH, encoder_precision="fp32")
    with short_lived(gate.repository, options) as running:
        yield running


def interrupted(number: signal.Signals, gate: Gate, *arguments: str) -> subprocess.CompletedProcess[str]:
    """clip-embed, sent a signal at the photo that hangs: it has counted some, and cannot have counted all."""
    command = embed_command(*arguments)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        gate.wait_for_hanging()
        process.send_signal(number)
        summary, said = process.communicate(timeout=PATIENCE_S)
    return subprocess.CompletedProcess(command, process.returncode, summary, said)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_same_command_continues_after_a_signal(
    gated: TritonServer, gate: Gate, many: str, tmp_path: Path, number: signal.Signals
) -> None:
    out = tmp_path / "out.parquet"
    arguments = (f"gs://{many}", "--out", str(out), "--url", gated.grpc_url, "--concurrency", "4", "--json")
    with gate.closed():
        stopped = interrupted(number, gate, *arguments)
    assert stopped.returncode == 130, stopped.stderr
    assert not out.exists(), "a file under this name is a whole one"
    summary = json.loads(stopped.stdout)
    kept = summary["embedded"]
    assert 0 < kept == summary["photos"] < 60
    assert summary["kept_in"] == f"{out}.parts"
    assert f"{out}.parts: {kept} rows" in stopped.stderr
    assert "run the same command again" in stopped.stderr
    done = clip_embed(*arguments)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["skipped"] == kept
    assert len(rows_of(out)) == 60
    assert [path.name for path in tmp_path.iterdir()] == ["out.parquet"]


def test_a_signal_ends_a_run_whose_server_hangs(
    gated: TritonServer, gate: Gate, many: str, tmp_path: Path
) -> None:
    """At once, and not after the deadline of the requests in flight."""
    out = tmp_path / "out.parquet"
    load = ("--url", gated.grpc_url, "--concurrency", "4", "--deadline", str(2 * PATIENCE_S))
    command = embed_command(f"gs://{many}", "--out", str(out), "--timings", *load)
    with (
        gate.closed(),
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process,
    ):
        gate.wait_for_hanging()
        os.kill(gated.pid, signal.SIGSTOP)
        try:
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=PATIENCE_S)
        finally:
            os.kill(gated.pid, signal.SIGCONT)
    assert process.returncode == 130, said
    assert "run the same command again" in said
    assert "Traceback" not in said


def test_a_stopped_overwrite_forgets_the_old_file(
    gated: TritonServer, gate: Gate, many: str, tmp_path: Path
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "old.jpg").write_bytes(camera_photos(1, seed=5)[0])
    out = tmp_path / "out.parquet"
    options = ("--out", str(out), "--url", gated.grpc_url, "--concurrency", "4", "--json")
    assert clip_embed(str(tmp_path / "photos"), *options).returncode == 0
    with gate.closed():
        stopped = interrupted(signal.SIGINT, gate, f"gs://{many}", *options, "--overwrite")
    assert stopped.returncode == 130, stopped.stderr
    assert "--resume instead of --overwrite" in stopped.stderr
    assert list(rows_of(out)) == ["old.jpg"], "until all is done"
    done = clip_embed(f"gs://{many}", *options, "--resume")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["skipped"] == json.loads(stopped.stdout)["embedded"]
    assert sorted(rows_of(out)) == [f"{index:03d}.jpg" for index in range(60)]


def test_a_full_disk_keeps_finished_rows(server: TritonServer, tmp_path: Path) -> None:
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
    assert "run the same command again" in done.stderr
    assert not out.exists()
    again = clip_embed(*arguments)
    assert again.returncode == 0, again.stderr
    assert len(rows_of(out)) == 12


def test_a_lost_server_keeps_finished_rows(small_repository: Path, fake_gcs: FakeGcs, tmp_path: Path) -> None:
    name = f"gone-{uuid.uuid4().hex[:8]}"
    photos = camera_photos(4, seed=8)
    for index in range(60):
        fake_gcs.upload(name, f"{index:03d}.jpg", photos[index % 4])
    out = tmp_path / "o.parquet"
    counted, stopped = threading.Event(), threading.Event()

    class Half(GcsSource):
        """Keeps the later half of its photos until the server has stopped."""

        def load(self, item: ObjectInfo) -> bytes:
            if item.name >= "030.jpg":
                stopped.wait()
            return super().load(item)

    with (
        TritonServer(small_repository, ServerOptions(layout=_ONE_EACH, supervise=False)) as server,
        ClipClient(server.grpc_url, deadline_s=5) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        source, sink = Half(name, ""), open_sink(str(out))
        run = pool.submit(embed_all, client, source, sink, on_item=lambda _: counted.set())
        try:
            assert counted.wait(PATIENCE_S)
            server.stop()
        finally:
            stopped.set()
        failure = run.exception()
    assert "no answer from the server" in str(failure)
    parts = list(out.with_name("o.parquet.parts").glob("shard-*.parquet"))
    rows = [row for part in parts for row in pq.read_table(part).to_pylist()]
    assert {row["error_text"] for row in rows} == {None}, "a server that stops is not the photos' fault"
    kept = len(rows)
    assert 0 < kept < 60
    with short_lived(small_repository, ServerOptions(layout=_ONE_EACH)) as server:
        done = clip_embed(f"gs://{name}", "--out", str(out), "--url", server.grpc_url, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["skipped"] == kept
    assert len(rows_of(out)) == 60
