"""The failure budget: how many objects may fail before a job ends."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from clip_batch import defaults
from clip_batch.errors import BudgetExceeded


@dataclass(frozen=True)
class Budget:
    """At most `max_failed` objects, and at most `max_failed_share` of those that are done (0 to 1)."""

    max_failed: int | None = None
    max_failed_share: float | None = None


def by_code(failed: Mapping[str, int]) -> str:
    """Failures in words, the most frequent error code first: "7 corrupt, 1 load_timeout"."""
    return ", ".join(f"{count} {code}" for code, count in Counter(failed).most_common())


class Meter:
    """Counts the objects of a job. Safe to use from several threads."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._lock = threading.Lock()
        self._done = 0
        self._failed: Counter[str] = Counter()

    def add(self, done: int, failed: Mapping[str, int]) -> None:
        """Raises BudgetExceeded if too many objects have failed so far."""
        with self._lock:
            self._done += done
            self._failed.update(failed)
            if limit := self._exceeded(total := self._failed.total()):
                raise BudgetExceeded(
                    f"{total} of {self._done} objects failed ({by_code(self._failed)}), more than {limit} "
                    "allows. Finished partitions are kept. Remove the cause, or raise the limit, and run the "
                    "command again"
                )

    def _exceeded(self, failed: int) -> str | None:
        """The option whose limit is exceeded."""
        most, share = self._budget.max_failed, self._budget.max_failed_share
        if most is not None and failed > most:
            return f"--max-failed {most}"
        if share is not None and self._done >= defaults.BUDGET_MIN_OBJECTS and failed > share * self._done:
            return f"--max-failed-share {share:g}"
        return None
