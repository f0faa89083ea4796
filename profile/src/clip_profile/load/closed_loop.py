"""A closed-loop load generator: a fixed number of requests in flight, each followed at once by the next."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

Request = Callable[[], int]
"""Sends one request and returns the number of photos that it embedded."""
Row = tuple[float, float, int]
"""Start and end of a request (seconds of time.monotonic()), and the photos that it embedded."""

_POLL_S = 0.05
_REPORT_S = 0.5
"""How often a wait reports the time that is left."""


class ClosedLoop:
    """Keeps `concurrency` requests in flight between `start` and `stop`, or within a `with` block.

    `connect` runs once in every thread and returns the function that the thread calls repeatedly. The first
    exception ends the load; it is kept in `error`, and raised when the block ends.
    """

    def __init__(self, connect: Callable[[], Request], concurrency: int) -> None:
        self._connect = connect
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._turns = [0] * concurrency
        self._rows: list[Row] = []
        self._threads = [
            threading.Thread(target=self._work, args=(place,), name=f"closed-loop-{place}", daemon=True)
            for place in range(concurrency)
        ]
        self.photos = 0
        """Embedded so far."""
        self.error: Exception | None = None

    def __enter__(self) -> ClosedLoop:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.stop()
        if kind is None and self.error is not None:
            raise self.error

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self, patience_s: float | None = None) -> None:
        """Sends no more requests and waits for those in flight, at most `patience_s`; may be called again."""
        self._over.set()
        end = None if patience_s is None else time.monotonic() + patience_s
        for thread in self._threads:
            thread.join(None if end is None else max(0.0, end - time.monotonic()))

    def fail(self, error: Exception) -> None:
        """Ends the load; the first error is kept."""
        with self._lock:
            self.error = self.error or error
        self._over.set()

    @property
    def stopping(self) -> bool:
        return self._over.is_set()

    @property
    def warm(self) -> bool:
        """Whether every thread has had a request answered."""
        return min(self._turns) > 0

    def rows(self) -> list[Row]:
        """All requests so far that embedded a photo."""
        with self._lock:
            return list(self._rows)

    def warm_up(self, seconds: float, report: Callable[[float], None] | None = None) -> None:
        """Waits at least `seconds`, and until every thread has had a request answered, so that no connection
        and no process is new."""
        end = time.monotonic() + seconds
        self.wait(lambda: max(0.0 if self.warm else _REPORT_S, end - time.monotonic()), report)

    def measure(self, seconds: float) -> tuple[float, float]:
        """Waits for `seconds`; returns start and end of the time measured."""
        begin = time.monotonic()
        self.wait(lambda: begin + seconds - time.monotonic())
        return begin, time.monotonic()

    def wait(self, left_s: Callable[[], float], report: Callable[[float], None] | None = None) -> None:
        """Waits until `left_s()` is 0 or the load fails; `report` is called with the seconds left."""
        reported = -_REPORT_S
        while not self.stopping and (left := left_s()) > 0:
            if report is not None and time.monotonic() - reported >= _REPORT_S:
                reported = time.monotonic()
                report(left)
            self._over.wait(min(_POLL_S, left))

    def _work(self, place: int) -> None:
        try:
            request = self._connect()
            while not self.stopping:
                begin = time.monotonic()
                photos = request()
                end = time.monotonic()
                with self._lock:
                    self._turns[place] += 1
                    self.photos += photos
                    if photos:
                        self._rows.append((begin, end, photos))
        except Exception as error:
            if not self.stopping:  # afterwards, its connection may have been closed on purpose
                self.fail(error)


def photos_per_s(rows: Sequence[Row], begin: float, end: float) -> float:
    """The throughput of a closed loop from `begin` to `end`.

    A request that crosses a border counts with the part of its time inside. Otherwise, whole batches that end
    just before or after the border would weigh as much as the differences we want to see.
    """
    photos = 0.0
    for started, ended, count in rows:
        within = min(ended, end) - max(started, begin)
        if within > 0:
            photos += count * within / (ended - started)
    return photos / (end - begin)


def latencies_ms(rows: Sequence[Row], begin: float, end: float) -> list[float]:
    """Of the requests that ended between `begin` and `end`."""
    return [1000 * (ended - started) for started, ended, _ in rows if begin <= ended < end]
