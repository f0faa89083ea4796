"""What every Storage does: the checks that folders and buckets share."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clip_batch import Storage, verify
from clip_batch.storage import content
from tests.unit.batch import jobs

Check = Callable[[Storage, Path], None]
"""Takes an empty storage, and a folder that the check may fill."""


def files_are_written_once_listed_moved_and_deleted(storage: Storage, _: Path) -> None:
    storage.check()
    assert list(storage.list("a")) == []
    assert storage.write_if_absent("a/2", content(b"two"))
    assert storage.write_if_absent("a/1/x", content(b"one"))
    assert storage.write_if_absent("ab", content(b"not in a"))
    assert not storage.write_if_absent("a/2", content(b"again"))
    assert [(file.name, file.size) for file in storage.list("a")] == [("a/1/x", 3), ("a/2", 3)]
    assert storage.read("a/2") == b"two"
    with storage.open("a/2") as file:
        assert file.read() == b"two"
    for _attempt in range(2):
        storage.move("a/2", "b/2")
    assert storage.read("b/2") == b"two"
    for _attempt in range(2):
        storage.delete("a/1/x")
    assert list(storage.list("a")) == []
    for read in (storage.read, storage.open):
        with pytest.raises(FileNotFoundError):
            read("a/1/x")
    storage.clean()


def of_many_writers_one_wins(storage: Storage, _: Path) -> None:
    start, won = threading.Barrier(8), []

    def run(number: int) -> None:
        def write(file: IO[bytes]) -> None:
            start.wait()  # all have found no file
            file.write(bytes([number]) * 100_000)

        if storage.write_if_absent("x", write):
            won.append(number)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [bytes([number]) * 100_000 for number in won] == [storage.read("x")]
    assert [file.name for file in storage.list("")] == ["x"]


def a_failed_write_leaves_nothing(storage: Storage, _: Path) -> None:
    def fail(file: IO[bytes]) -> None:
        file.write(b"half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        storage.write_if_absent("y", fail)
    assert list(storage.list("")) == []
    assert storage.write_if_absent("y", content(b"whole"))


def parquet_is_read_in_parts(storage: Storage, _: Path) -> None:
    table = pa.table({"name": [str(number) for number in range(50_000)], "value": list(range(50_000))})
    assert storage.write_if_absent("t.parquet", lambda file: pq.write_table(table, file, row_group_size=1000))
    with storage.open("t.parquet") as file:
        values = pq.ParquetFile(file).read_row_group(7, ["value"])["value"].to_pylist()
    assert values == list(range(7000, 8000))


def a_job_is_run_and_continued(storage: Storage, folder: Path) -> None:
    photos = {f"{number}.jpg": b"photo %d" % number for number in range(9)}
    photos["bad.jpg"] = jobs.BAD
    jobs.plan(storage, jobs.folder_of(folder / "photos", photos))
    jobs.run(storage)
    assert jobs.run(storage) == [], "all partitions are done"
    found = jobs.newest(storage)
    assert found.keys() == photos.keys()
    assert [name for name, row in found.items() if row.get("error_code")] == ["bad.jpg"]
    jobs.plan(storage, jobs.folder_of(folder / "photos", {"new.jpg": b"new"}))
    jobs.run(storage)
    assert len(jobs.rows(storage)) == len(photos) + 1
    assert verify(storage).problems == []


CHECKS: tuple[Check, ...] = (
    files_are_written_once_listed_moved_and_deleted,
    of_many_writers_one_wins,
    a_failed_write_leaves_nothing,
    parquet_is_read_in_parts,
    a_job_is_run_and_continued,
)
