"""Files of an output that are damaged, missing, of a later release, or not of clip-batch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clip_batch import BatchError, DamagedFile, LocalStorage, Partition, compact, read_status, retry, verify
from clip_batch.manifest import FORMAT
from tests.unit.batch.jobs import BAD, folder_of, plan, run

COMMANDS: tuple[Callable[[LocalStorage], Any], ...] = (read_status, verify, compact, retry, run)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return folder_of(tmp_path / "photos", {f"{number:02}.jpg": b"photo %d" % number for number in range(10)})


@pytest.fixture
def out(tmp_path: Path, photos: Path) -> Path:
    """A job of twelve objects in three partitions, embedded; one object of each of the last two failed."""
    folder_of(photos, {"05.bad": BAD, "x.bad": BAD})
    storage = LocalStorage(tmp_path / "out")
    plan(storage, photos)
    run(storage)
    return tmp_path / "out"


@pytest.fixture
def storage(out: Path) -> LocalStorage:
    return LocalStorage(out)


def test_verify_names_damaged_files_and_checks_the_others(storage: LocalStorage, out: Path) -> None:
    first, second, third = (out / Partition(1, number).shard for number in range(3))
    first.write_bytes(first.read_bytes()[:100])
    data = bytearray(second.read_bytes())
    data[4:200] = b"\xff" * 196
    second.write_bytes(data)
    report = verify(storage)
    assert not report.ok
    for path in (first, second):
        assert any(f"{path.name} is damaged" in problem for problem in report.problems)
    assert not any(third.name in problem for problem in report.problems)
    for command in (read_status, compact, retry):
        with pytest.raises(DamagedFile, match=f"{first.name} is damaged.*Delete it"):
            command(storage)
    first.unlink()
    second.unlink()
    run(storage)
    assert verify(storage).ok, "the advice helps"


@pytest.mark.parametrize("content", ["{", "[]", "null", '"text"', "\ud800\0"])
@pytest.mark.parametrize("name", ["_plans/000001.json", "_models/000001.json", "_compact/000001.json"])
def test_a_damaged_description_is_named(storage: LocalStorage, out: Path, name: str, content: str) -> None:
    compact(storage)
    (out / name).write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(DamagedFile, match=f"{name} is damaged: .*Restore it from a copy"):
        verify(storage)


@pytest.mark.parametrize("name", ["_plans/000001.json", "_compact/000001.json"])
def test_what_a_description_lacks_is_named(storage: LocalStorage, out: Path, name: str) -> None:
    compact(storage)
    (out / name).write_text("{}")
    with pytest.raises(DamagedFile, match=f"{name} is damaged: it lacks '"):
        verify(storage)


def test_a_manifest_that_cannot_be_read_is_named(storage: LocalStorage, out: Path) -> None:
    (path,) = out.glob("_plans/*.parquet")
    rows = pq.read_table(path)
    for change, said in (
        (lambda: path.write_bytes(path.read_bytes()[:1000]), "is damaged: "),
        (lambda: pq.write_table(pa.table({"name": ["a"]}), path), "lacks the columns content_encoding, "),
        (lambda: pq.write_table(rows, path), "has 1 partitions instead of 3"),
        (path.unlink, "is missing. Restore it from a copy"),
    ):
        change()
        for command in (verify, lambda storage: plan(storage, out)):
            with pytest.raises(DamagedFile, match=f"{path.name} .*{said}"):
                command(storage)


def test_what_a_later_release_adds_is_ignored_until_it_changes_the_meaning(
    storage: LocalStorage, out: Path
) -> None:
    compact(storage)
    for name in ("_plans/000001.json", "_compact/000001.json"):
        values = json.loads((out / name).read_text())
        (out / name).write_text(json.dumps({**values, "added": [1]}))
    assert verify(storage).ok
    values = json.loads((out / "_plans/000001.json").read_text())
    later = {**values, "format": FORMAT + 1, "version": "9.1.0"}
    (out / "_plans/000001.json").write_text(json.dumps(later))
    for command in COMMANDS:
        with pytest.raises(BatchError, match=r"plan 1 was made by clip-batch 9.1.0.*Install that release"):
            command(storage)
    del values["format"]
    (out / "_plans/000001.json").write_text(json.dumps(values))
    assert verify(storage).ok, "as plans without it are"


def test_a_file_of_another_program_is_no_shard(storage: LocalStorage, out: Path) -> None:
    path = out / Partition(1, 1).shard
    pq.write_table(pa.table({"name": ["a"]}), path)
    for command in (read_status, compact, retry):
        with pytest.raises(DamagedFile, match=f"{path.name} is damaged: clip-batch did not write it"):
            command(storage)
    assert any("clip-batch did not write it" in problem for problem in verify(storage).problems)
    path.unlink()
    run(storage)
    assert verify(storage).ok


def test_missing_errors_are_named(storage: LocalStorage, out: Path) -> None:
    path = min(out.glob("errors/*"))
    path.unlink()
    for command in (compact, retry):
        with pytest.raises(DamagedFile, match=f"{path.name} is missing"):
            command(storage)
    assert any(f"{path.name} is missing" in problem for problem in verify(storage).problems)


def test_a_missing_file_of_a_compaction_takes_no_other_rows_with_it(storage: LocalStorage, out: Path) -> None:
    """As after a staging folder was lost, when the shards are all that is left."""
    shards = {path: path.read_bytes() for path in out.glob("e*/*.parquet")}
    compact(storage)
    (out / "embeddings/000001-c000001-00000.parquet").unlink()
    for path, data in shards.items():
        path.write_bytes(data)
    for command in (read_status, compact, retry):
        with pytest.raises(DamagedFile, match=r"c000001-00000.parquet is missing"):
            command(storage)
    assert any("c000001-00000.parquet is missing" in problem for problem in verify(storage).problems)
    assert all(path.exists() for path in shards)
    (out / "_compact/000001.json").unlink()
    report = verify(storage)
    assert report.ok, "the shards count again"
