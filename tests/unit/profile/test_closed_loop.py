"""The closed-loop load generator, and the arithmetic on its rows: known rows in, right figures out."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from clip_profile.load.closed_loop import ClosedLoop, latencies_ms, photos_per_s


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_it_keeps_its_requests_in_flight_until_it_is_stopped() -> None:
    connections, in_flight, most = [], [0], [0]
    lock = threading.Lock()

    def request() -> int:
        with lock:
            in_flight[0] += 1
            most[0] = max(most[0], in_flight[0])
        time.sleep(0.01)
        with lock:
            in_flight[0] -= 1
        return 2

    def connect() -> Callable[[], int]:
        connections.append(object())
        return request

    with ClosedLoop(connect, 3) as loop:
        loop.warm_up(0.0)
        assert loop.warm
        begin, end = loop.measure(0.1)
    rows = loop.rows()
    assert len(connections) == most[0] == 3
    assert all(photos == 2 for _, _, photos in rows)
    assert loop.photos == 2 * len(rows)
    assert max(row_end for _, row_end, _ in rows) >= end > begin, "load goes on beyond the time measured"
    count = loop.photos
    time.sleep(0.05)
    assert loop.photos == count


def test_the_first_error_ends_the_load_and_every_wait() -> None:
    def request() -> int:
        raise RuntimeError("refused")

    loop = ClosedLoop(lambda: request, 2)
    with pytest.raises(RuntimeError, match="refused"), loop:
        loop.measure(600)
    loop.fail(ValueError("later"))
    assert str(loop.error) == "refused"


def test_a_connection_that_fails_is_an_error_too() -> None:
    def connect() -> Callable[[], int]:
        raise OSError("no route")

    with pytest.raises(OSError, match="no route"), ClosedLoop(connect, 1) as loop:
        loop.warm_up(600)


def test_an_error_after_the_stop_is_ignored() -> None:
    """Closing a connection on purpose fails its request in flight."""
    closed, waiting = threading.Event(), threading.Event()

    def request() -> int:
        waiting.set()
        closed.wait(60)
        raise ConnectionError("closed")

    loop = ClosedLoop(lambda: request, 1)
    loop.start()
    assert waiting.wait(60)
    loop.stop(patience_s=0.0)
    closed.set()
    loop.stop()
    assert loop.error is None
    assert loop.rows() == []


def test_requests_without_an_embedded_photo_have_no_row() -> None:
    with ClosedLoop(lambda: lambda: 0, 1) as loop:
        wait_until(lambda: loop.warm)
    assert loop.rows() == []


def test_a_wait_reports_what_is_left() -> None:
    left = [3.0, 2.0, 0.0]
    told: list[float] = []
    with ClosedLoop(lambda: lambda: 1, 1) as loop:
        loop.wait(lambda: left.pop(0), told.append)
    assert told == [3.0], "not more often than people can read"


@pytest.mark.parametrize("offset", [0.0, 0.3, 0.99])
@pytest.mark.parametrize("photos", [1, 8])
def test_a_steady_loop_has_its_rate_wherever_the_window_lies(offset: float, photos: int) -> None:
    # Four clients, a second a request: 4 x photos a second, all of them ending at the same moment.
    rows = [(float(second), second + 1.0, photos) for second in range(-3, 20) for _ in range(4)]
    assert photos_per_s(rows, offset, offset + 9.5) == pytest.approx(4 * photos)


def test_requests_that_ended_before_or_began_after_do_not_count() -> None:
    rows = [(0.0, 1.0, 5), (1.0, 3.0, 8), (9.0, 10.0, 5)]
    assert photos_per_s(rows, 1.0, 5.0) == pytest.approx(2.0)


def test_a_request_longer_than_the_window_counts_in_part() -> None:
    assert photos_per_s([(0.0, 40.0, 40)], 10.0, 20.0) == pytest.approx(1.0)


def test_latencies_are_of_requests_that_ended_within() -> None:
    assert latencies_ms([(0.0, 1.0, 1), (0.5, 2.5, 1), (2.0, 6.0, 1)], 2.0, 5.0) == [2000.0]


def _stop_after_an_error(loop: ClosedLoop) -> None:
    loop.measure(600)
    raise KeyboardInterrupt


def test_an_error_of_the_block_comes_before_that_of_the_load() -> None:
    def request() -> int:
        raise RuntimeError("refused")

    with pytest.raises(KeyboardInterrupt), ClosedLoop(lambda: request, 1) as loop:
        _stop_after_an_error(loop)
