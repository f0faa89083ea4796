"""The time of a sweep: how much is left, and what runs will take."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence


class Budget:
    """Seconds. `start_s` is what the last start of a server took, `overhead_s` what the last run took
    beyond its windows; both begin with a guess."""

    def __init__(self, total_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._total_s = total_s
        self._end = clock() + total_s
        self.start_s, self.overhead_s = 10.0, 3.0

    @property
    def left_s(self) -> float:
        return self._end - self._clock()

    def cost(self, windows_s: Sequence[float], starts: int = 0) -> float:
        """Of one run per window, and of this many server starts between them."""
        return sum(windows_s) + len(windows_s) * self.overhead_s + starts * self.start_s

    def reserve(self, rounds_s: float) -> float:
        """For the rounds after the search, but at most half of the budget: the search gets the other half."""
        return min(self._total_s / 2, rounds_s)

    def fits(self, cost_s: float, reserve_s: float = 0.0) -> bool:
        return cost_s + reserve_s <= self.left_s
