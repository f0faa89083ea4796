"""Outputs in a bucket of the real fake-gcs-server: whole, and never over another run's rows.

fake-gcs-server honors if_generation_match when a file is uploaded in one request. It ignores it for resumable
uploads, which files over 8 MB need, and when an object is deleted; Google's own service does not.
"""

from __future__ import annotations

import io
import json
import uuid
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from clip_client import EmbeddedObject, Existing, ItemError, ObjectInfo, PhotoResult, SinkError, open_sink
from clip_client.bucket import Bucket
from clip_client.sinks.base import Sink
from clip_serving.server.embedded import TritonServer
from testing.fake_gcs import FakeGcs
from testing.pictures import encoded, noise
from tests.integration.embed_command import clip_embed

_MODEL = {"weights_sha256": "1"}
_NEW, _RESUME, _OVERWRITE = Existing(), Existing(resume=True), Existing(overwrite=True)


@pytest.fixture
def bucket(fake_gcs: FakeGcs) -> Bucket:
    """An empty bucket."""
    name = f"output-{uuid.uuid4().hex[:12]}"
    fake_gcs.client.create_bucket(name)
    return Bucket(name, SinkError)


def names_in(bucket: Bucket, name: str) -> list[str]:
    """The names of the rows of a Parquet file in the bucket, sorted."""
    with bucket.open(name) as file:
        return sorted(pq.read_table(file).column("name").to_pylist())


def test_the_command_writes_to_a_bucket_and_completes_it_there(
    server: TritonServer, fake_gcs: FakeGcs, bucket: Bucket, tmp_path: Path
) -> None:
    for number in range(3):
        fake_gcs.upload(bucket.name, f"{number}.jpg", encoded(noise(64, 48, seed=number), "JPEG"))
    fake_gcs.upload(bucket.name, "bad.jpg", b"no photo")
    out = f"gs://{bucket.name}/out/e.parquet"
    work = ("--work", str(tmp_path / "work"), "--json")
    arguments = (f"gs://{bucket.name}/", "--out", out, "--url", server.grpc_url, *work)
    done = clip_embed(*arguments)
    assert done.returncode == 1, done.stderr
    assert names_in(bucket, "out/e.parquet") == ["0.jpg", "1.jpg", "2.jpg"]
    assert names_in(bucket, "out/e.errors.parquet") == ["bad.jpg"]
    summary = json.loads(done.stdout)
    assert (summary["out"], summary["errors"]) == (out, f"gs://{bucket.name}/out/e.errors.parquet")

    fake_gcs.upload(bucket.name, "bad.jpg", encoded(noise(64, 48, seed=9), "JPEG"))
    again = clip_embed(*arguments, "--resume")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["skipped"] == 3, "the outputs in the bucket are no photos"
    assert names_in(bucket, "out/e.parquet") == ["0.jpg", "1.jpg", "2.jpg", "bad.jpg"]
    assert bucket.generation("out/e.errors.parquet") == 0
    assert list((tmp_path / "work").iterdir()) == []


def item(name: str, error: ItemError | None = None) -> EmbeddedObject:
    vector = None if error else np.array([0.6, 0.8], np.float32)
    return EmbeddedObject(ObjectInfo(name, 3, 1), PhotoResult(embedding=vector, error=error))


def begun(bucket: Bucket, work: Path, existing: Existing = _NEW) -> Sink:
    sink = open_sink(f"gs://{bucket.name}/e.parquet", work)
    try:
        sink.check("gs://photos", existing)
        sink.open("gs://photos", _MODEL, 2, existing)
    except SinkError:
        sink.close()
        raise
    return sink


def finished(sink: Sink, *items: EmbeddedObject) -> dict[str, int]:
    try:
        for each in items:
            sink.write(each)
        return sink.finish()
    finally:
        sink.close()


def test_of_two_machines_the_second_is_refused_and_can_add_its_rows(bucket: Bucket, tmp_path: Path) -> None:
    first, second = begun(bucket, tmp_path / "1"), begun(bucket, tmp_path / "2")
    assert finished(first, item("a")) == {"": 1}
    with pytest.raises(SinkError, match=r"written by another run.*--resume"):
        finished(second, item("b"), item("bad", ItemError("corrupt", "")))
    assert names_in(bucket, "e.parquet") == ["a"]
    with pytest.raises(SinkError, match="exists"):
        begun(bucket, tmp_path / "2")
    again = begun(bucket, tmp_path / "2", _RESUME)
    assert finished(again) == {"": 2, "corrupt": 1}
    assert names_in(bucket, "e.parquet") == ["a", "b"]


def test_an_interrupted_run_goes_on_with_the_file_as_it_is_by_then(bucket: Bucket, tmp_path: Path) -> None:
    finished(begun(bucket, tmp_path / "1"), item("a"))
    stopped = begun(bucket, tmp_path / "2", _RESUME)
    stopped.write(item("b"))
    stopped.keep()
    stopped.close()
    finished(begun(bucket, tmp_path / "1", _RESUME), item("c"))
    assert finished(begun(bucket, tmp_path / "2", _RESUME), item("d")) == {"": 4}
    assert names_in(bucket, "e.parquet") == ["a", "b", "c", "d"]


@pytest.mark.parametrize("uploads", [0, 1], ids=["before", "after"])
def test_a_run_that_is_killed_while_it_uploads_loses_nothing(
    bucket: Bucket, tmp_path: Path, uploads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = Bucket.upload

    def killed(self: Bucket, *arguments: object) -> bool:
        if uploads:
            upload(self, *arguments)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Bucket, "upload", killed)
        with pytest.raises(KeyboardInterrupt):
            finished(begun(bucket, tmp_path), item("a"))
    existing = _RESUME if uploads else _NEW
    assert finished(begun(bucket, tmp_path, existing), item("b")) == {"": 2}
    assert names_in(bucket, "e.parquet") == ["a", "b"]


def test_a_stopped_overwrite_goes_on_without_the_old_rows(bucket: Bucket, tmp_path: Path) -> None:
    finished(begun(bucket, tmp_path), item("old"))
    stopped = begun(bucket, tmp_path, _OVERWRITE)
    stopped.write(item("a"))
    stopped.keep()
    stopped.close()
    assert names_in(bucket, "e.parquet") == ["old"]
    assert finished(begun(bucket, tmp_path, _RESUME), item("b")) == {"": 2}
    assert names_in(bucket, "e.parquet") == ["a", "b"]


def test_an_upload_whose_answer_was_lost_counts_as_done(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bucket.upload(io.BytesIO(b"other"), "other", 0)
    assert not bucket.upload(io.BytesIO(b"mine"), "other", 0)
    same = uuid.uuid4()
    monkeypatch.setattr(uuid, "uuid4", lambda: same)
    assert bucket.upload(io.BytesIO(b"mine"), "mine", 0)
    assert bucket.upload(io.BytesIO(b"mine"), "mine", 0), "the same upload, repeated"
    assert (bucket.read("other"), bucket.read("mine")) == (b"other", b"mine")


def test_what_a_bucket_cannot_do_is_said(bucket: Bucket) -> None:
    missing = Bucket("no-such-bucket", SinkError)
    for call in (
        missing.check,
        lambda: missing.read("x"),
        lambda: missing.generation("x"),
        lambda: missing.upload(io.BytesIO(b"x"), "x", 0),
    ):
        with pytest.raises(SinkError, match="bucket gs://no-such-bucket does not exist"):
            call()
    with pytest.raises(FileNotFoundError):
        bucket.open("x")
    with pytest.raises(FileNotFoundError):
        bucket.copy("x", "y")
    bucket.delete("x")
