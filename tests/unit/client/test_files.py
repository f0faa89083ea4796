"""Atomic replacement, and a lock that comes and goes with its file."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from clip_client.files import FileLock, replacing


def test_a_file_is_replaced_at_once_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text("old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"

    def fail() -> None:
        with replacing(path) as unfinished:
            unfinished.write_text("half")
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="disk is full"):
        fail()
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_lock_has_one_holder_and_leaves_no_file(tmp_path: Path) -> None:
    first, second = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    assert first.acquire()
    assert not second.acquire()
    second.release()
    assert (tmp_path / "lock").exists(), "it was not the holder"
    first.release()
    assert second.acquire()
    second.release()
    assert list(tmp_path.iterdir()) == []


def test_many_threads_never_hold_a_lock_at_the_same_time(tmp_path: Path) -> None:
    """Each removes the file as it lets go, under those that have just opened it."""
    inside, taken = [0], [0]
    wrong: list[int] = []
    end = time.monotonic() + 30

    def run() -> None:
        while taken[0] < 500 and time.monotonic() < end:
            lock = FileLock(tmp_path / "lock")
            if lock.acquire():
                inside[0] += 1
                if inside[0] > 1:
                    wrong.append(inside[0])
                taken[0] += 1
                time.sleep(0)
                inside[0] -= 1
                lock.release()

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert taken[0] > 10
