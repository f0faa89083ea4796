"""Many objects at once: in order, within the bytes allowed, and nothing lost."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing

import numpy as np
import pytest

from clip_client import ItemError, ObjectInfo, PhotoResult, ServerUnavailable
from clip_client.stream import stream


class Memory:
    """A source in memory that counts the bytes held at once, as a test's stand-in for a bucket."""

    def __init__(self, sizes: list[int]) -> None:
        self.sizes = sizes
        self.held = self.most = 0
        self.lock = threading.Lock()

    uri = "memory://"

    def check(self) -> None:
        """Can always be listed."""

    def covers(self, name: str) -> bool:
        return int(name) < len(self.sizes)

    def list(self) -> Iterator[ObjectInfo]:
        for number, size in enumerate(self.sizes):
            yield ObjectInfo(f"{number}", size)

    def load(self, item: ObjectInfo) -> bytes:
        if item.name == "3":
            raise ItemError("not_found", "gone")
        with self.lock:
            self.held += item.size
            self.most = max(self.most, self.held)
        return bytes(item.size)

    def embed(self, data: bytes) -> PhotoResult:
        time.sleep(0.002 * (len(data) % 3))
        with self.lock:
            self.held -= len(data)
        return PhotoResult(np.array([len(data)], np.float32))


def test_order_and_bytes_in_flight() -> None:
    source = Memory([10 + number % 7 for number in range(60)])
    results = list(stream(source, source.embed, concurrency=8, bytes_in_flight=40))
    assert [item.name for item in results] == [str(number) for number in range(60)]
    assert source.most <= 40
    failed = [item for item in results if isinstance(item.outcome, ItemError)]
    assert [item.name for item in failed] == ["3"]


def test_an_object_larger_than_the_bound_goes_through_alone() -> None:
    source = Memory([5, 500, 5])
    assert len(list(stream(source, source.embed, concurrency=4, bytes_in_flight=40))) == 3


def test_an_unreachable_server_ends_the_stream() -> None:
    source = Memory([1] * 100)

    def away(data: bytes) -> PhotoResult:
        del data
        raise ServerUnavailable("away")

    with pytest.raises(ServerUnavailable):
        list(stream(source, away, concurrency=4, bytes_in_flight=40))


def test_what_is_too_large_is_not_loaded() -> None:
    def too_large(size: int) -> ItemError | None:
        return ItemError("too_many_bytes", f"{size}") if size > 50 else None

    source = Memory([5, 500, 5])
    results = list(stream(source, source.embed, 2, 40, too_large=too_large))
    assert [isinstance(item.outcome, ItemError) for item in results] == [False, True, False]
    assert source.most <= 10


@pytest.mark.parametrize("within", [True, False], ids=["waiting for the next", "between two"])
def test_ctrl_c_ends_what_is_in_flight_before_it_is_waited_for(within: bool) -> None:
    """The first object is embedded; all others wait until somebody ends them."""
    source, ended = Memory([2] + [1] * 29), threading.Event()

    def embed(data: bytes) -> PhotoResult:
        assert len(data) == 2 or ended.wait(60), "nobody ended it"
        return source.embed(data)

    def run() -> None:
        with closing(stream(source, embed, 2, 40, on_abort=ended.set)) as records:
            next(records)
            if within:
                threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
                next(records)
            raise KeyboardInterrupt

    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run()
    assert time.monotonic() - begin < 50
