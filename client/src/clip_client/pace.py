"""How many requests to have in flight: as many as asked for, and fewer while the server refuses load.

A refused request has crossed the network for nothing, and many clients that come again at once keep a server
busy with refusing. So a refusal shrinks the number in flight, and answers let it grow again, one for each
round of answers: additive increase, multiplicative decrease, as TCP does. What waits here costs nobody.
"""

from __future__ import annotations

import time


class Pace:
    """The arithmetic, without waiting. `most` is the number in flight that the user asked for."""

    def __init__(self, most: int) -> None:
        self._most = float(most)
        self._limit = float(most)
        self._in_flight = 0
        self._shrunk = float("-inf")

    @property
    def limit(self) -> int:
        return max(1, int(self._limit))

    @property
    def is_open(self) -> bool:
        return self._in_flight < self.limit

    def begin(self) -> None:
        self._in_flight += 1

    def end(self, *, refused: bool, now: float | None = None) -> None:
        """After an answer of any kind; `refused` where the server's queue was full."""
        self._in_flight -= 1
        now = time.monotonic() if now is None else now
        if not refused:
            self._limit = min(self._most, self._limit + 1 / self._limit)
        elif now - self._shrunk >= _ROUND_S:
            # Those sent together are refused together, and tell one thing.
            self._limit, self._shrunk = max(1.0, self._limit * _SHRINK), now


_SHRINK = 0.7
_ROUND_S = 0.5
