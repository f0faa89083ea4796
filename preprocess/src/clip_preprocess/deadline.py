"""Work on threads with a deadline per piece: a piece that takes too long is abandoned, the others are not."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

T = TypeVar("T")
NewExecutor = Callable[[int], Executor]
"""Starts that number of threads."""


def new_executor(threads: int) -> Executor:
    """Threads that Python waits for when it exits."""
    return ThreadPoolExecutor(threads, "preprocess")


class DeadlinePool:
    """Runs `threads` pieces of work side by side, each for at most `timeout_s` seconds from its own start.

    A thread cannot be ended from outside. One that is given up runs on and is replaced, so the pool keeps
    its width; `stuck` counts those that still run.
    """

    def __init__(self, threads: int, timeout_s: float, executor: NewExecutor = new_executor) -> None:
        self._threads = threads
        self._timeout_s = timeout_s
        self._new_executor = executor
        self._pool = executor(threads)
        self._given_up: set[Future[Any]] = set()

    @property
    def stuck(self) -> int:
        self._given_up = {future for future in self._given_up if not future.done()}
        return len(self._given_up)

    def run(self, work: Callable[[int], T], count: int) -> list[T | None]:
        """The results of `work(0)` to `work(count - 1)`, and None for each that was given up.

        An idle thread takes the next piece, so a slow piece delays no other while a thread is free.
        """
        started: dict[int, float] = {}

        def piece(index: int) -> T:
            started[index] = time.monotonic()
            return work(index)

        results: list[T | None] = [None] * count
        waiting = {self._pool.submit(piece, index): index for index in range(count)}
        while waiting:
            begun = [started[index] for index in waiting.values() if index in started]
            deadline = min(begun, default=time.monotonic()) + self._timeout_s
            done, _ = wait(waiting, timeout=max(0.001, deadline - time.monotonic()))
            for future in done:
                results[waiting.pop(future)] = future.result()
            now = time.monotonic()
            late = {
                each for each, index in waiting.items() if now - started.get(index, now) >= self._timeout_s
            }
            if late:
                self._given_up |= late
                waiting = self._replace_pool(piece, {each: waiting[each] for each in waiting.keys() - late})
        return results

    def close(self) -> None:
        """Ends the threads that are not stuck."""
        self._pool.shutdown(wait=not self.stuck, cancel_futures=True)

    def _replace_pool(self, piece: Callable[[int], T], waiting: dict[Future[T], int]) -> dict[Future[T], int]:
        """Moves the pieces that have not begun to a new pool; those that run finish in the old one."""
        old, self._pool = self._pool, self._new_executor(self._threads)
        moved = {
            self._pool.submit(piece, index) if future.cancel() else future: index
            for future, index in waiting.items()
        }
        old.shutdown(wait=False)
        return moved
