"""Finds the best of many settings in few measurements (docs/adr/0008).

A Gaussian process is fitted to the logarithms of the measured values. After a few settings that are far
apart, the setting with the highest expected improvement per cost is next, so settings that are almost
certainly worse are never measured. CherryPick (Alipourfard et al., NSDI 2017) chose cloud machines this way.
The proposals depend on the values so far and on nothing else, so a sweep that was stopped can continue.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from clip_profile.records.setting import NOMINAL, Setting, Space
from clip_profile.sweep.gaussian_process import Estimate, Floats, fit

COARSE_RUNS = 5
"""Settings far apart that are measured first."""
ENOUGH = 0.002
"""The search ends when the expected improvement of every setting is below this share."""
_FLOOR = math.exp(-0.5)
"""Values below this share of the best count as this share, and so do failures: how bad the bad settings are
says nothing about the good ones, and would hide the small differences among these."""
_POSSIBLE = 3.0
"""Standard deviations; a setting that would have to be further off is not worth a last measurement."""


class Search:
    """Proposes settings of `space`; call `add` with their values (above 0, larger is better)."""

    def __init__(
        self, space: Space, start: Setting, *, cost: Callable[[Setting], float] = lambda _: 1.0
    ) -> None:
        """`start` is a point of `space`. `cost` of a setting, in any unit, may change between proposals."""
        self.points = space.points()
        self._index = {point: i for i, point in enumerate(self.points)}
        self._places = _places(space, self.points)
        axes = space.axes
        self._ranks = np.array([[axes[name].index(getattr(p, name)) for name in axes] for p in self.points])
        self._nominal = [name in NOMINAL for name in axes]
        self._start = self._index[start]
        self._cost = cost
        self._values: dict[int, float | None] = {}

    def add(self, setting: Setting, value: float | None) -> None:
        """The value of a setting, or None if it could not be measured."""
        self._values[self._index[setting]] = value

    def next(self) -> Setting | None:
        """The setting to measure next; None when no improvement is expected."""
        left = [i for i in range(len(self.points)) if i not in self._values]
        if not left:
            return None
        if self._start not in self._values:
            return self.points[self._start]
        if len(self._values) < min(COARSE_RUNS, len(self.points) // 4) or not self._measured:
            return self.points[self._farthest(left)]
        return self._most_promising(left)

    def best(self, n: int) -> list[Setting]:
        """The `n` measured settings with the highest estimates, best first."""
        if not self._measured:
            return []
        mean = self._estimate().mean
        return [self.points[i] for i in sorted(self._measured, key=lambda i: -float(mean[i]))[:n]]

    @property
    def _measured(self) -> list[int]:
        return [i for i, value in self._values.items() if value is not None]

    def _estimate(self) -> Estimate:
        """Of the logarithms, so that differences are shares."""
        seen = np.array(sorted(self._values))
        values = [self._values[i] for i in seen]
        floor = _FLOOR * max((value for value in values if value is not None), default=1.0)
        return fit(self._places, seen, np.log([max(floor, value or floor) for value in values]))

    def _farthest(self, left: Sequence[int]) -> int:
        seen = self._places[list(self._values)]
        gaps = np.linalg.norm(self._places[list(left), None] - seen[None], axis=2).min(axis=1)
        return left[int(np.argmax(gaps))]

    def _most_promising(self, left: Sequence[int]) -> Setting | None:
        estimate = self._estimate()
        # The best estimate, not the best value, which may have been lucky.
        gain = estimate.expected_improvement(float(estimate.mean[self._measured].max()))[left]
        if float(gain.max()) < ENOUGH:
            return self._last_doubt(left, estimate)
        costs = np.array([self._cost(self.points[i]) for i in left])
        # A low cost alone does not justify measuring a setting that promises far less than the best.
        worthwhile = np.where(gain >= 0.3 * gain.max(), gain / costs, 0.0)
        return self.points[left[int(np.argmax(worthwhile))]]

    def _last_doubt(self, left: Sequence[int], estimate: Estimate) -> Setting | None:
        """A direct neighbor of the best that could just possibly be better, before the search ends."""
        best = self._index[self.best(1)[0]]
        near = [
            i
            for i in left
            if np.count_nonzero(steps := np.abs(self._ranks[i] - self._ranks[best])) == 1
            and (steps.max() == 1 or self._nominal[int(steps.argmax())])
            and estimate.mean[i] + _POSSIBLE * estimate.sd[i] > estimate.mean[best]
        ]
        return self.points[max(near, key=lambda i: float(estimate.mean[i]))] if near else None


def _places(space: Space, points: Sequence[Setting]) -> Floats:
    """[points, axes] in 0..1: values by rank, as each is about the same factor from the next.

    Names have no order: each gets an axis of its own, on which it is 0.5 away from the others.
    """
    columns = []
    for name, values in space.axes.items():
        if len(values) < 2:
            continue
        ranks = {value: rank / (len(values) - 1) for rank, value in enumerate(values)}
        if name in NOMINAL:
            columns += [[0.5 * (getattr(p, name) == value) for p in points] for value in values]
        else:
            columns.append([ranks[getattr(p, name)] for p in points])
    return np.array(columns, np.float64).T.reshape(len(points), -1)
