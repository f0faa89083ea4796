"""The local storage: files that are whole or absent, and never replaced."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import IO

import pytest

from clip_batch import LocalStorage, StorageError, open_storage


def put(storage: LocalStorage, name: str, content: bytes) -> bool:
    def write(file: IO[bytes]) -> None:
        file.write(content)

    return storage.write_if_absent(name, write)


def test_a_file_is_written_once(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path / "out")
    assert put(storage, "a/b", b"first")
    assert not put(storage, "a/b", b"second")
    assert storage.read("a/b") == b"first"
    with storage.open("a/b") as file:
        assert file.read() == b"first"
    assert [(file.name, file.size) for file in storage.list("a")] == [("a/b", 5)]


def test_of_many_writers_one_wins(tmp_path: Path) -> None:
    storage, start = LocalStorage(tmp_path), threading.Barrier(8)
    won: list[int] = []

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
    assert len(won) == 1
    assert storage.read("x") == bytes([won[0]]) * 100_000
    assert os.listdir(tmp_path) == ["x"]


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)

    def write(file: IO[bytes]) -> None:
        file.write(b"half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        storage.write_if_absent("x", write)
    assert os.listdir(tmp_path) == []


def test_moves_and_deletions_can_be_repeated(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    put(storage, "a", b"1")
    for _ in range(2):
        storage.move("a", "folder/b")
    assert storage.read("folder/b") == b"1"
    for _ in range(2):
        storage.delete("folder/b")
    with pytest.raises(FileNotFoundError):
        storage.read("folder/b")
    assert list(storage.list("nothing")) == []


def test_leftovers_of_killed_writers_are_hidden_and_removed_when_old(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    put(storage, "a", b"1")
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
        put(storage, "x", b"")

    with pytest.raises(StorageError, match="cannot write"):
        use(LocalStorage(tmp_path / place))
