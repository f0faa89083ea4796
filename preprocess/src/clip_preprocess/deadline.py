"""Work on threads with a deadline for each piece: what takes too long is given up, its neighbours are not."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait


class DeadlinePool:
    """`threads` pieces of work side by side, each for at most `timeout_s` seconds from its own start.

    Nothing can end a thread from outside. One that is given up is left to itself and replaced, so
    that the pool keeps its width; `stuck` tells how many of them still run.
    """

    def __init__(self, threads: int, timeout_s: float) -> None:
        self._threads = threads
        self._timeout_s = timeout_s
        self._pool = self._new_pool()
        self._given_up: set[Future[None]] = set()

    @property
    def stuck(self) -> int:
        self._given_up = {future for future in self._given_up if not future.done()}
        return len(self._given_up)

    def run(self, work: Callable[[int], None], count: int) -> set[int]:
        """Calls `work(0)` to `work(count - 1)`; returns those that were given up.

        Threads take piece after piece: a slow one occupies its own thread and no other.
        """
        started: dict[int, float] = {}

        def piece(index: int) -> None:
            started[index] = time.monotonic()
            work(index)

        waiting = {self._pool.submit(piece, index): index for index in range(count)}
        late: set[int] = set()
        while waiting:
            wait(waiting, timeout=self._patience([started.get(index) for index in waiting.values()]))
            for future in [future for future in waiting if future.done()]:
                del waiting[future]
                future.result()
            overdue = [future for future, index in waiting.items() if self._is_over(started.get(index))]
            if overdue:
                late.update(waiting.pop(future) for future in overdue)
                self._given_up.update(overdue)
                waiting = self._replace_pool(piece, waiting)
        return late

    def close(self) -> None:
        """Ends the threads, save those that are stuck."""
        self._pool.shutdown(wait=not self.stuck, cancel_futures=True)

    def _new_pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self._threads, "preprocess")

    def _patience(self, starts: list[float | None]) -> float:
        """Seconds until the first deadline of those that have begun."""
        begun = [start for start in starts if start is not None]
        end = min(begun, default=time.monotonic()) + self._timeout_s
        return max(0.001, end - time.monotonic())

    def _is_over(self, start: float | None) -> bool:
        return start is not None and time.monotonic() - start >= self._timeout_s

    def _replace_pool(
        self, piece: Callable[[int], None], waiting: dict[Future[None], int]
    ) -> dict[Future[None], int]:
        """Moves what has not begun to a new pool; what runs goes on in the old one."""
        old, self._pool = self._pool, self._new_pool()
        kept = {
            self._pool.submit(piece, index) if future.cancel() else future: index
            for future, index in waiting.items()
        }
        old.shutdown(wait=False)
        return kept
