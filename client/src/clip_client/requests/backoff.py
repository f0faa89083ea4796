"""How many requests to have in flight: as many as asked for, and fewer while the server refuses load.

A refused request has crossed the network for nothing, and many clients that come again at once keep a server
busy with refusing. So a refusal shrinks the number in flight, and answers let it grow again, one for each
round of answers: additive increase, multiplicative decrease, as TCP does. What waits here costs nobody.

Waiting for one's turn has two reasons. Behind requests of one's own that are answered it may take as long as
they do; behind a server that refuses load, or does not answer, it takes of a request's deadline.
"""

from __future__ import annotations

import time


class Pace:
    """The arithmetic, without waiting. `most` is the number in flight that the user asked for."""

    def __init__(self, most: int) -> None:
        self._most = float(most)
        self._limit = float(most)
        self._in_flight = 0
        self._alone = False
        self.wish_to_be_alone = 0
        """Requests that wait until nothing else is in flight; no other begins before them."""
        self._shrunk = self._eased = float("-inf")
        self._refusing = False

    @property
    def limit(self) -> int:
        return max(1, int(self._limit))

    def is_open(self, *, alone: bool = False) -> bool:
        """Whether another request may begin; one that is to be `alone`, only with nothing in flight."""
        if self._alone or (self.wish_to_be_alone and not alone):
            return False
        return self._in_flight < (1 if alone else self.limit)

    @property
    def is_held_back(self) -> bool:
        """Whether the server refuses load: fewer may be in flight than asked for, or one was just refused."""
        return self._refusing or self._limit < self._most

    def waits_since(self, begin: float) -> float:
        """When a request, ready since `begin`, began to wait for the server and not for its own kind."""
        return max(begin, self._eased)

    def begin(self, *, alone: bool = False) -> None:
        self._in_flight += 1
        self._alone = alone

    def end(self, *, refused: bool, answered: bool = True, now: float | None = None) -> None:
        """`refused` where the server's queue was full, not `answered` where it said nothing."""
        self._in_flight -= 1
        self._alone = False
        now = time.monotonic() if now is None else now
        self._refusing = refused
        if not refused:
            self._limit = min(self._most, self._limit + 1 / self._limit)
        elif now - self._shrunk >= _ROUND_S:
            # Those sent together are refused together, and tell one thing.
            self._limit, self._shrunk = max(1.0, self._limit * _SHRINK), now
        if answered and not self.is_held_back:
            self._eased = now


_SHRINK = 0.7
_ROUND_S = 0.5
