"""clip-batch with a real server and bucket: two workers share a job, and readers load what they wrote."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import polars as pl
import pytest

from clip_batch.cli import main
from clip_client import ClipClient
from clip_search import read_dataset
from clip_serving.server.embedded import TritonServer
from testing.fake_gcs import FakeGcs
from testing.pictures import camera_photos
from testing.waiting import PATIENCE_S

PHOTOS = 40


@pytest.fixture(scope="module")
def photos() -> list[bytes]:
    return camera_photos(5, seed=3)


@pytest.fixture(scope="module")
def bucket(fake_gcs: FakeGcs, photos: list[bytes]) -> str:
    """A bucket of photos and one object that is none."""
    name = f"batch-{uuid.uuid4().hex[:8]}"
    for index in range(PHOTOS):
        fake_gcs.upload(name, f"2024/{index:02}.jpg", photos[index % len(photos)])
    fake_gcs.upload(name, "2024/notes.txt", b"no photo")
    return name


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "clip_batch.cli", *arguments]


@pytest.fixture(scope="module")
def out(server: TritonServer, bucket: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job that two workers did at the same time, each of them all partitions."""
    folder = tmp_path_factory.mktemp("batch") / "out"
    source = ("plan", f"gs://{bucket}/2024/", "--out", str(folder), "--partition-size", "8")
    assert main([*source, "--url", server.grpc_url]) == 0
    run = command("run", str(folder), "--url", server.grpc_url, "--deadline", str(PATIENCE_S), "--json")
    workers = [
        subprocess.Popen(run, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    done = [worker.communicate(timeout=2 * PATIENCE_S) for worker in workers]
    for worker, (_, said) in zip(workers, done, strict=True):
        assert worker.returncode in (0, 1), said  # 0 if it met no failed photo
    new = [json.loads(printed)["partitions"] for printed, _ in done]
    assert sum(new) == 6, "each partition has one shard, whoever wrote it"
    return folder


def test_each_object_is_there_once(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(out), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["objects"], report["embedded"], report["failed"]) == (PHOTOS + 1, PHOTOS, 1)
    assert (report["superseded"], report["unused"]) == (0, 0)


def test_a_second_plan_finds_nothing_new(out: Path, bucket: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", f"gs://{bucket}/2024/", "--out", str(out), "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["objects"], plan["skipped"]) == (0, PHOTOS + 1)
    assert main(["run", str(out)]) == 0, "no server is needed"


def test_readers_load_the_folder(out: Path, bucket: str, server: TritonServer, photos: list[bytes]) -> None:
    with ClipClient(server.grpc_url) as client:
        wanted = client.embed(photos)[[index % len(photos) for index in range(PHOTOS)]]
    embeddings = out / "embeddings"
    tables = {
        "pandas": pd.read_parquet(embeddings),
        "duckdb": duckdb.read_parquet(f"{embeddings}/*.parquet").df(),
        "polars": pl.read_parquet(embeddings).to_pandas(),
    }
    for reader, table in tables.items():
        table = table.sort_values("name")
        assert list(table["name"]) == [f"2024/{index:02}.jpg" for index in range(PHOTOS)], reader
        assert set(table["source"]) == {f"gs://{bucket}"}, reader
        np.testing.assert_allclose(np.stack(list(table["embedding"])), wanted, atol=1e-5, err_msg=reader)
    dataset = read_dataset(out)
    assert len(dataset) == PHOTOS
    order = np.argsort([row.name for row in dataset.rows()])
    np.testing.assert_allclose(dataset.vectors[order], wanted, atol=1e-5)
    assert dataset.model["weights_sha256"]
