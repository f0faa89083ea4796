"""Whose turn it is to have a request in flight: Pace's arithmetic, with waiting, for threads and for asyncio.

A retry goes before requests that have not been tried, which lose nothing by waiting: their time begins with
their first turn. What is tried alone waits until nothing else is in flight, and holds everything else back.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

from clip_client.requests.backoff import Pace


def _patience_s(pace: Pace, ready: float, deadline_s: float) -> float:
    """Seconds that a request, ready since then, may yet wait for its first turn.

    The deadline runs while it waits for the server, and not while it waits for its own kind.
    """
    return pace.waits_since(ready) + deadline_s - time.monotonic()


class Turns:
    """For threads. Every turn that was given must be ended with over()."""

    def __init__(self, most: int) -> None:
        self.pace = Pace(most)
        self._closed = threading.Event()
        lock = threading.Lock()
        self._first, self._again = threading.Condition(lock), threading.Condition(lock)

    def first(self, deadline_s: float, *, alone: bool = False) -> float | None:
        """Waits for a request's first turn, or its first one alone; returns when its time is up.

        (A moment of time.monotonic.) None, and no turn, where the server has given no sign of ease for
        `deadline_s`.
        """
        ready = time.monotonic()
        waiting = self._again if alone else self._first
        with self._wishing(waiting, alone):
            while not self._closed.is_set() and (left := _patience_s(self.pace, ready, deadline_s)) > 0:
                if self.pace.is_open(alone=alone):
                    self.pace.begin(alone=alone)
                    return time.monotonic() + left
                waiting.wait(left)
        return None

    def again(self, end: float, *, alone: bool) -> bool:
        """Waits for another turn of the same request; False, and no turn, where its time is up."""
        with self._wishing(self._again, alone):
            while not self._closed.is_set() and (left := end - time.monotonic()) > 0:
                if self.pace.is_open(alone=alone):
                    self.pace.begin(alone=alone)
                    return True
                self._again.wait(left)
        return False

    @contextmanager
    def _wishing(self, waiting: threading.Condition, alone: bool) -> Iterator[None]:
        with waiting:
            self.pace.wish_to_be_alone += alone
            try:
                yield
            finally:
                self.pace.wish_to_be_alone -= alone
                self._first.notify(2)  # it may have held them back

    def over(self, *, refused: bool, answered: bool) -> None:
        """As Pace.end()."""
        with self._first:
            self.pace.end(refused=refused, answered=answered)
            self._again.notify_all()
            self._first.notify(2)  # one for the place, one should the limit have grown

    def rest(self, seconds: float) -> None:
        """Sleeps between two tries, or until the client is closed."""
        self._closed.wait(seconds)

    def close(self) -> None:
        """Nobody waits any longer, and no turn is given."""
        with self._first:
            self._closed.set()
            self._again.notify_all()
            self._first.notify_all()


class AsyncTurns:
    """As Turns, for asyncio."""

    def __init__(self, most: int) -> None:
        self.pace = Pace(most)
        lock = asyncio.Lock()
        self._first, self._again = asyncio.Condition(lock), asyncio.Condition(lock)

    async def first(self, deadline_s: float, *, alone: bool = False) -> float | None:
        ready = time.monotonic()
        waiting = self._again if alone else self._first
        async with self._wishing(waiting, alone):
            while (left := _patience_s(self.pace, ready, deadline_s)) > 0:
                if self.pace.is_open(alone=alone):
                    self.pace.begin(alone=alone)
                    return time.monotonic() + left
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(waiting.wait(), left)
        return None

    async def again(self, end: float, *, alone: bool) -> bool:
        async with self._wishing(self._again, alone):
            while (left := end - time.monotonic()) > 0:
                if self.pace.is_open(alone=alone):
                    self.pace.begin(alone=alone)
                    return True
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._again.wait(), left)
        return False

    @asynccontextmanager
    async def _wishing(self, waiting: asyncio.Condition, alone: bool) -> AsyncIterator[None]:
        async with waiting:
            self.pace.wish_to_be_alone += alone
            try:
                yield
            finally:
                self.pace.wish_to_be_alone -= alone
                self._first.notify(2)

    async def over(self, *, refused: bool, answered: bool) -> None:
        # The place is given back first: whoever is cancelled while it waits for the lock has done so.
        self.pace.end(refused=refused, answered=answered)
        async with self._first:
            self._again.notify_all()
            self._first.notify(2)
