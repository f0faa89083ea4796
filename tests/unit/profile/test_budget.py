"""The time that is left, and what runs cost, in numbers."""

from __future__ import annotations

from clip_profile.sweep.budget import Budget


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_what_is_left_counts_from_the_beginning() -> None:
    clock = Clock()
    budget = Budget(60, clock)
    clock.now += 45
    assert budget.left_s == 15
    assert budget.fits(15)
    assert not budget.fits(10, 6)


def test_costs_are_those_of_the_last_run_and_start() -> None:
    budget = Budget(60, Clock())
    assert budget.cost([5.0, 20.0], starts=1) == 25 + 2 * 3 + 10
    budget.start_s, budget.overhead_s = 4.0, 1.5
    assert budget.cost([5.0, 20.0], starts=2) == 25 + 2 * 1.5 + 2 * 4
    assert budget.cost([5.0]) == 6.5


def test_the_search_has_half_of_the_budget_at_least() -> None:
    budget = Budget(60, Clock())
    assert budget.reserve(20) == 20
    assert budget.reserve(200) == 30
