"""The Storage of clip-batch in a bucket of the real fake-gcs-server; test_bucket_output.py has its limits."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clip_batch import Storage, StorageError, open_storage, verify
from testing.fake_gcs import FakeGcs
from tests.unit.batch import jobs
from tests.unit.batch.jobs import BAD


def content(data: bytes) -> Callable[[IO[bytes]], None]:
    def write(file: IO[bytes]) -> None:
        file.write(data)

    return write


@pytest.fixture(params=["bucket", "folder"])
def storage(request: pytest.FixtureRequest, fake_gcs: FakeGcs, tmp_path: Path) -> Storage:
    """An empty one, of each kind: they behave alike."""
    if request.param == "folder":
        return open_storage(str(tmp_path / "out"))
    name = f"batch-{uuid.uuid4().hex[:12]}"
    fake_gcs.client.create_bucket(name)
    fake_gcs.upload(name, "other/a/b", b"outside of the storage")
    return open_storage(f"gs://{name}/job/")


def test_files_are_written_once_listed_moved_and_deleted(storage: Storage) -> None:
    storage.check()
    assert list(storage.list("a")) == []
    assert storage.write_if_absent("a/2", content(b"two"))
    assert storage.write_if_absent("a/1/x", content(b"one"))
    assert storage.write_if_absent("ab", content(b"not in a"))
    assert not storage.write_if_absent("a/2", content(b"again"))
    assert [(file.name, file.size) for file in storage.list("a")] == [("a/1/x", 3), ("a/2", 3)]
    assert storage.read("a/2") == b"two"
    storage.move("a/2", "b/2")
    storage.move("a/2", "b/2")  # an earlier one
    assert storage.read("b/2") == b"two"
    storage.delete("a/1/x")
    storage.delete("a/1/x")
    assert list(storage.list("a")) == []
    for read in (storage.read, storage.open):
        with pytest.raises(FileNotFoundError):
            read("a/1/x")
    storage.clean()


def test_of_many_writers_one_wins_and_a_failed_one_writes_nothing(storage: Storage) -> None:
    start, won = threading.Barrier(4), []

    def run(number: int) -> None:
        def write(file: IO[bytes]) -> None:
            start.wait()  # all have found no file
            file.write(bytes([number]) * 1000)

        if storage.write_if_absent("x", write):
            won.append(number)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [bytes([number]) * 1000 for number in won] == [storage.read("x")]

    def fail(file: IO[bytes]) -> None:
        file.write(b"half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        storage.write_if_absent("y", fail)
    assert storage.write_if_absent("y", content(b"whole"))


def test_parquet_is_read_in_parts(storage: Storage) -> None:
    table = pa.table({"name": [str(number) for number in range(50_000)], "value": list(range(50_000))})
    assert storage.write_if_absent("t.parquet", lambda file: pq.write_table(table, file, row_group_size=1000))
    with storage.open("t.parquet") as file:
        assert pq.ParquetFile(file).read_row_group(7, ["value"])["value"].to_pylist() == list(
            range(7000, 8000)
        )


def test_a_job_runs_in_a_bucket_as_in_a_folder(storage: Storage, tmp_path: Path) -> None:
    photos = {f"{number}.jpg": b"photo %d" % number for number in range(9)}
    photos["bad.jpg"] = BAD
    jobs.plan(storage, jobs.folder_of(tmp_path / "photos", photos))
    jobs.run(storage)
    assert jobs.run(storage) == [], "all partitions are done"
    found = jobs.newest(storage)
    assert found.keys() == photos.keys()
    assert [name for name, row in found.items() if row.get("error_code")] == ["bad.jpg"]
    jobs.plan(storage, jobs.folder_of(tmp_path / "photos", {"new.jpg": b"new"}))
    jobs.run(storage)
    assert len(jobs.rows(storage)) == len(photos) + 1
    assert verify(storage).problems == []


def test_an_output_in_the_bucket_of_the_photos_is_not_planned(fake_gcs: FakeGcs) -> None:
    name = f"batch-{uuid.uuid4().hex[:12]}"
    for photo in ("a.jpg", "jobs.jpg"):
        fake_gcs.upload(name, photo, photo.encode())
    storage = open_storage(f"gs://{name}/job/")
    assert jobs.plan(storage, f"gs://{name}").objects == 2
    jobs.run(storage)
    again = jobs.plan(storage, f"gs://{name}")
    assert (again.objects, again.skipped) == (0, 2)


def test_a_bucket_that_does_not_exist_and_a_uri_without_one_are_refused(fake_gcs: FakeGcs) -> None:
    del fake_gcs
    with pytest.raises(StorageError, match="no-such-bucket does not exist"):
        open_storage("gs://no-such-bucket/x").check()
    with pytest.raises(StorageError, match="has no bucket name"):
        open_storage("gs:///x")
    with pytest.raises(StorageError, match="s3:// is not supported"):
        open_storage("s3://bucket/x")
