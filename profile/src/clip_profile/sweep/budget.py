"""The time of a sweep: what is left of it, and what runs are going to take."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence


class Budget:
    """Seconds. What a server's start takes, and a run beyond its windows, is learnt from the last one."""

    def __init__(self, total_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._total_s = total_s
        self._end = clock() + total_s
        self._start_s, self._over_s = 10.0, 3.0

    @property
    def left_s(self) -> float:
        return self._end - self._clock()

    def learn(self, *, start_s: float | None = None, over_s: float | None = None) -> None:
        """What a start took, and a run beyond its windows; None where there was none."""
        self._start_s = self._start_s if start_s is None else start_s
        self._over_s = self._over_s if over_s is None else over_s

    def cost(self, windows_s: Sequence[float], starts: int = 0) -> float:
        """Of runs with so long windows each, and of so many starts of a server between them."""
        return sum(windows_s) + len(windows_s) * self._over_s + starts * self._start_s

    def reserve(self, rounds_s: float) -> float:
        """For the rounds after the search: at most half of the whole, so that the search has the other."""
        return min(self._total_s / 2, rounds_s)

    def fits(self, cost_s: float, reserve_s: float = 0.0) -> bool:
        return cost_s + reserve_s <= self.left_s
