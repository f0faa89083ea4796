"""A piece of work that hangs costs itself, not its neighbors nor the pool's width."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from clip_preprocess.deadline import DeadlinePool


@pytest.fixture
def release() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


@pytest.mark.parametrize("threads", [1, 3])
def test_results_come_in_order(threads: int) -> None:
    pool = DeadlinePool(threads, timeout_s=60)
    assert pool.run(str, 20) == [str(index) for index in range(20)]
    assert pool.stuck == 0
    pool.close()


@pytest.mark.parametrize("threads", [1, 2])
def test_a_piece_that_hangs_times_out_and_the_rest_is_done(threads: int, release: threading.Event) -> None:
    pool = DeadlinePool(threads, timeout_s=1.5)

    def work(index: int) -> int:
        if index in (1, 4):
            release.wait()
        return index

    assert pool.run(work, 8) == [0, None, 2, 3, None, 5, 6, 7]
    assert pool.stuck == 2
    release.set()
    # A stuck piece that ends after all is forgotten, and the pool works as before.
    while pool.stuck:
        time.sleep(0.01)
    assert pool.run(work, 3) == [0, 1, 2]
    pool.close()


def test_the_deadline_counts_from_each_pieces_own_start(release: threading.Event) -> None:
    """Eight pieces one after the other take longer than the deadline of one."""
    pool = DeadlinePool(1, timeout_s=2)

    def work(index: int) -> int:
        release.wait(0.3)
        return index

    assert pool.run(work, 8) == list(range(8))
    pool.close()


def test_an_exception_of_the_work_is_not_swallowed() -> None:
    def work(index: int) -> None:
        raise LookupError(index)

    pool = DeadlinePool(1, timeout_s=60)
    with pytest.raises(LookupError):
        pool.run(work, 1)
    pool.close()
