"""Jobs of clip-batch whose workers, server, bucket and disk fail at random points: every object exactly once.

CLIP_BATCH_KILLS sets the number of kills, CLIP_BATCH_SEED another order of them.
"""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from clip_batch import Dataset, LocalStorage, compact, retry, verify
from clip_batch.cli import main
from clip_client.errors import CLIENT_CODES, SERVER_CODES
from clip_serving.repository.stage import InstanceLayout
from clip_serving.server.embedded import ServerOptions, TritonServer
from testing.fake_gcs import FakeGcs
from testing.pictures import encoded, noise
from testing.waiting import PATIENCE_S, wait_until

KILLS = int(os.environ.get("CLIP_BATCH_KILLS", "20"))
SEED = int(os.environ.get("CLIP_BATCH_SEED", "0"))
OBJECTS = 200
BUCKET = "killed"


@pytest.fixture(scope="module")
def server(small_repository: Path) -> Iterator[TritonServer]:
    options = ServerOptions(layout=InstanceLayout(1, 1, 1, 1), encoder_precision="fp32")
    with TritonServer(small_repository, options) as running:
        yield running


class Bucket:
    """A bucket whose server can be killed, and started again with the same objects."""

    def __init__(self, folder: Path) -> None:
        self._running = FakeGcs(folder)
        self._folder = folder

    def __enter__(self) -> Bucket:
        self._running.__enter__()
        os.environ["STORAGE_EMULATOR_HOST"] = self._running.url
        photo = encoded(noise(64, 48), "JPEG")
        for index in range(OBJECTS):
            data = b"no photo" if index % 50 == 7 else photo + b"%d" % index
            self._running.upload(BUCKET, f"{index:03}.jpg", data)
        return self

    def __exit__(self, *_: object) -> None:
        self._running.__exit__(None, None, None)
        del os.environ["STORAGE_EMULATOR_HOST"]

    def kill(self, pause_s: float) -> None:
        self._running.__exit__(None, None, None)
        time.sleep(pause_s)
        self._running = FakeGcs(self._folder, self._running.port)
        self._running.__enter__()


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bucket]:
    folder = tmp_path_factory.mktemp("bucket")
    try:
        os.setxattr(folder, b"user.probe", b"1")
    except OSError:
        pytest.skip(f"{folder} keeps no extended attributes, which the bucket's disk backend needs")
    with Bucket(folder) as running:
        yield running


class Kills:
    """Starts workers, and kills something after a random time."""

    def __init__(self, server: TritonServer, bucket: Bucket, seed: int) -> None:
        self.random = random.Random(seed)
        self._server, self._bucket = server, bucket
        self.count = 0

    def once(self, out: Path) -> None:
        kind = self.random.choice(
            [self._worker, self._both_workers, self._disk, self._tritonserver, self._gcs]
        )
        kind(out)
        self.count += 1

    def _start(self, out: Path, file_bytes: int | None = None) -> subprocess.Popen[bytes]:
        def limit() -> None:
            # The kernel refuses the write just as a full disk does, with another errno.
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            if file_bytes is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))

        command = ["run", str(out), "--url", self._server.grpc_url, "--deadline", str(PATIENCE_S), "--quiet"]
        return subprocess.Popen(
            [sys.executable, "-m", "clip_batch.cli", *command],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=limit,
        )

    def _wait(self, out: Path, worker: subprocess.Popen[bytes]) -> None:
        """For the worker's first new shard, and then for a random part of its run."""
        done = len(Dataset.read(LocalStorage(out)).undone())
        wait_until(
            lambda: worker.poll() is not None or len(Dataset.read(LocalStorage(out)).undone()) < done,
            "a shard of a worker",
        )
        with suppress(subprocess.TimeoutExpired):
            worker.wait(self.random.uniform(0, 1))

    def _worker(self, out: Path) -> None:
        worker = self._start(out)
        self._wait(out, worker)
        worker.kill()
        worker.wait()

    def _both_workers(self, out: Path) -> None:
        workers = [self._start(out), self._start(out)]
        self._wait(out, workers[0])
        for worker in workers:
            worker.kill()
            worker.wait()

    def _disk(self, out: Path) -> None:
        """A shard has about 10 kB: depending on the limit, none or all of them can be written."""
        worker = self._start(out, self.random.choice([1_000, 5_000, 11_000]))
        assert worker.wait(PATIENCE_S) in (0, 1, 2)

    def _tritonserver(self, out: Path) -> None:
        worker = self._start(out)
        self._wait(out, worker)
        before = self._server.restarts
        os.kill(self._server.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            worker.wait(self.random.uniform(0, 5))
        worker.kill()
        worker.wait()
        wait_until(lambda: self._server.restarts > before, "the server's restart")

    def _gcs(self, out: Path) -> None:
        worker = self._start(out)
        self._wait(out, worker)
        self._bucket.kill(self.random.uniform(0, 1))
        with suppress(subprocess.TimeoutExpired):
            worker.wait(self.random.uniform(0, 5))
        worker.kill()
        worker.wait()


def test_every_object_exactly_once(server: TritonServer, bucket: Bucket, tmp_path: Path) -> None:
    kills = Kills(server, bucket, SEED)
    jobs = 0
    while kills.count < KILLS:
        jobs += 1
        out = tmp_path / f"out-{jobs}"
        assert main(["plan", f"gs://{BUCKET}", "--out", str(out), "--partition-size", "4"]) == 0
        while Dataset.read(LocalStorage(out)).undone() and kills.count < KILLS:
            kills.once(out)
            report = verify(LocalStorage(out))
            assert report.problems == [], f"after kill {kills.count}"
        finish(server, out)
        check(out)
    print(f"{kills.count} kills in {jobs} jobs")


def finish(server: TritonServer, out: Path) -> None:
    """Runs what is left, and retries what failed because of a kill."""
    patience = str(PATIENCE_S)
    command = ["run", str(out), "--url", server.grpc_url, "--deadline", patience, "--wait", patience]
    assert main(command) in (0, 1)
    if retry(LocalStorage(out), (SERVER_CODES | CLIENT_CODES) - {"unsupported_format"}).objects:
        assert main(command) == 0


def check(out: Path) -> None:
    """Every object of the bucket once, before and after a compaction, as any reader sees it."""
    storage = LocalStorage(out)
    report = verify(storage)
    assert report.ok, report.problems
    compact(storage, 70)
    report = verify(storage)
    assert report.ok, report.problems
    assert (report.objects, report.superseded, report.unused) == (OBJECTS, 0, 0)
    failed = pq.read_table(out / "errors").to_pylist()
    assert {row["error_code"] for row in failed} == {"unsupported_format"}
    embedded = pq.read_table(out / "embeddings").column("name").to_pylist()
    names = [*embedded, *(row["name"] for row in failed)]
    assert sorted(names) == [f"{index:03}.jpg" for index in range(OBJECTS)]
    assert len(failed) == OBJECTS // 50


@pytest.mark.usefixtures("bucket")
def test_compactions_killed_at_random_points(server: TritonServer) -> None:
    """A process that compacts again and again is killed; OUT is right and complete each time."""
    random_ = random.Random(SEED)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        assert main(["plan", f"gs://{BUCKET}", "--out", str(out), "--partition-size", "4"]) == 0
        finish(server, out)
        for _ in range(max(3, KILLS // 4)):
            worker = subprocess.Popen([sys.executable, "-c", _COMPACT, str(out)], stdout=subprocess.PIPE)
            assert worker.stdout is not None
            assert worker.stdout.readline()
            with suppress(subprocess.TimeoutExpired):
                worker.wait(random_.uniform(0, 0.3))
            worker.kill()
            worker.communicate()
            report = verify(LocalStorage(out))
            assert report.ok, report.problems
            assert report.objects == OBJECTS
        check(out)


_COMPACT = """
import sys
from pathlib import Path
from clip_batch import LocalStorage, compact
print("ready", flush=True)
while True:
    for rows in (7, 11, 150):
        compact(LocalStorage(Path(sys.argv[1])), rows)
"""
