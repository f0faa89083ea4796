"""Jittered exponential backoff between retries, and an adaptive limit on the requests in flight.

A rejected request wastes bandwidth, and many clients that retry at once keep a server busy with rejecting
them. So a rejection lowers the number of requests in flight, and answers raise it again by one
per round of answers: additive increase, multiplicative decrease, as in TCP.
"""

from __future__ import annotations

import random

from clip_client import defaults


class Backoff:
    """The pauses between the tries of one call."""

    def __init__(self) -> None:
        self._most_s = defaults.RETRY_INITIAL_S

    def next_s(self) -> float:
        """Seconds, uniformly random up to a bound that doubles with each call."""
        most_s, self._most_s = self._most_s, min(2 * self._most_s, defaults.RETRY_MAXIMUM_S)
        return random.uniform(0.0, most_s)


class InFlightLimit:
    """How many requests may be in flight: `most`, or fewer after the server rejected some.

    Times are seconds of one monotonic clock.
    """

    def __init__(self, most: int) -> None:
        self._most = float(most)
        self._limit = float(most)
        self._in_flight = 0
        self._is_isolated = False
        self._decreased_at = self._relieved_at = float("-inf")
        self._was_rejected = False

    @property
    def current(self) -> int:
        return max(1, int(self._limit))

    @property
    def in_flight(self) -> int:
        return self._in_flight

    @property
    def is_overloaded(self) -> bool:
        """Whether the last request was rejected, or the limit is still reduced because of earlier ones."""
        return self._was_rejected or self._limit < self._most

    def allows(self, *, isolated: bool = False) -> bool:
        """Whether a request may start now; an `isolated` one runs with nothing else in flight."""
        return not self._is_isolated and self._in_flight < (1 if isolated else self.current)

    def start(self, *, isolated: bool = False) -> None:
        self._in_flight += 1
        self._is_isolated = isolated

    def cancel(self) -> None:
        """Ends a request without a result."""
        self._in_flight -= 1
        self._is_isolated = False

    def finish(self, now: float, *, rejected: bool, answered: bool) -> None:
        """Ends a request that was `rejected` by a full queue, `answered`, or neither."""
        self.cancel()
        self._was_rejected = rejected
        if not rejected:
            self._limit = min(self._most, self._limit + 1 / self._limit)
        elif now - self._decreased_at >= _ROUND_S:
            # Requests sent together are rejected together; they count once.
            self._limit, self._decreased_at = max(1.0, self._limit * _DECREASE), now
        if answered and not self.is_overloaded:
            self._relieved_at = now

    def collapse(self) -> None:
        """Allows one request at a time, as TCP after a timeout, until answers raise the limit again."""
        self._limit = 1.0

    def deadline_start(self, ready: float) -> float:
        """When the deadline started for a request that has been waiting for a slot since `ready`.

        Waiting behind other requests that are being answered does not count. Waiting for an overloaded or
        unreachable server does.
        """
        return max(ready, self._relieved_at)


_DECREASE = 0.7
_ROUND_S = 0.5
