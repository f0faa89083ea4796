"""A piece of work that hangs costs itself, and neither its neighbours nor the pool's width."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from clip_preprocess.deadline import DeadlinePool


@pytest.fixture
def release() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


@pytest.mark.parametrize("threads", [1, 3])
def test_all_is_done_in_time(threads: int) -> None:
    pool = DeadlinePool(threads, timeout_s=60)
    done: list[int] = []
    assert pool.run(done.append, 20) == set()
    assert sorted(done) == list(range(20))
    assert pool.stuck == 0
    pool.close()


@pytest.mark.parametrize("threads", [1, 2])
def test_what_hangs_is_given_up_and_the_rest_is_done(threads: int, release: threading.Event) -> None:
    pool = DeadlinePool(threads, timeout_s=0.3)
    done: list[int] = []

    def work(index: int) -> None:
        if index in (1, 4):
            release.wait()
        else:
            done.append(index)

    assert pool.run(work, 8) == {1, 4}
    assert sorted(done) == [0, 2, 3, 5, 6, 7]
    assert pool.stuck == 2
    release.set()
    # What was stuck and ends after all is forgotten; the pool goes on as before.
    while pool.stuck:
        pass
    assert pool.run(done.append, 3) == set()
    pool.close()


def test_more_than_one_pass_of_work_is_not_late(release: threading.Event) -> None:
    """The deadline counts from each piece's own start, not from the batch's."""
    pool = DeadlinePool(1, timeout_s=0.4)

    def work(index: int) -> None:
        assert not release.wait(0.1), index

    assert pool.run(work, 8) == set()
    pool.close()


def test_an_exception_of_the_work_is_not_swallowed() -> None:
    def work(index: int) -> None:
        raise LookupError(index)

    pool = DeadlinePool(1, timeout_s=60)
    with pytest.raises(LookupError):
        pool.run(work, 1)
    pool.close()
