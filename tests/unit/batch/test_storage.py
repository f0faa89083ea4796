"""The local storage: files that are whole or absent, and never replaced."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO

import pytest

from clip_batch import LocalStorage, StorageError, open_storage
from clip_batch.storage import content
from tests.unit.batch.storages import CHECKS, Check, a_failed_write_leaves_nothing, of_many_writers_one_wins


@pytest.mark.parametrize("check", CHECKS)
def test_a_folder_does_what_every_storage_does(check: Check, tmp_path: Path) -> None:
    check(open_storage(str(tmp_path / "out")), tmp_path)


def test_writes_leave_no_temporary_files(tmp_path: Path) -> None:
    of_many_writers_one_wins(LocalStorage(tmp_path / "raced"), tmp_path)
    assert os.listdir(tmp_path / "raced") == ["x"]
    a_failed_write_leaves_nothing(LocalStorage(tmp_path / "failed"), tmp_path)
    assert os.listdir(tmp_path / "failed") == ["y"]


def test_leftovers_of_killed_writers_are_hidden_and_removed_when_old(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    storage.write_if_absent("a", content(b"1"))
    for name, age in ((".a.0.tmp", 2 * 24 * 3600), (".a.1.tmp", 0)):
        (tmp_path / name).touch()
        then = (tmp_path / name).stat().st_mtime - age
        os.utime(tmp_path / name, (then, then))
    assert [file.name for file in storage.list("")] == ["a"]
    storage.clean()
    assert sorted(os.listdir(tmp_path)) == [".a.1.tmp", "a"]


def test_a_full_disk_is_a_typed_error(tmp_path: Path) -> None:
    def write(file: IO[bytes]) -> None:
        with open("/dev/full", "wb", buffering=0) as full:
            full.write(b"x")
        del file

    with pytest.raises(StorageError, match="No space left on device"):
        open_storage(str(tmp_path)).write_if_absent("x", write)


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"ftp:// is not supported.*local folder"):
        open_storage("ftp://host/x")
    with pytest.raises(StorageError, match="empty"):
        open_storage("")
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="is not a folder"):
        open_storage(str(tmp_path / "file" / "out")).check()


@pytest.mark.parametrize("place", ["/proc/out", "x" * 300])
def test_a_folder_that_cannot_be_created_is_refused(place: str, tmp_path: Path) -> None:
    def use(storage: LocalStorage) -> None:
        storage.check()
        storage.write_if_absent("x", content(b""))

    with pytest.raises(StorageError, match="cannot write"):
        use(LocalStorage(tmp_path / place))
