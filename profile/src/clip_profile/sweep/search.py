"""Finds the best of many settings in few runs: coarse to fine, and nowhere near what is surely worse.

A Gaussian process (Matern 5/2 over the axes' ranks, one length scale an axis) is fitted to the logs of
what was measured. It starts with a few settings far apart; then the setting with the most expected
improvement for its cost is next, so settings that are dominated with some certainty are never run. The
method is CherryPick's (Alipourfard et al., NSDI 2017), which chose cloud machines with it. Everything is
a function of the results so far: a sweep that was cut off tells them again and is where it was.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

from clip_profile.records.setting import NOMINAL, Setting, Space

Floats = npt.NDArray[np.float64]

COARSE_RUNS = 5
"""Settings far apart that are measured before anything is concluded."""
ENOUGH = 0.002
"""The search ends when not even this share more is to be expected from any setting."""
_FLOOR = math.exp(-0.5)
"""Whatever is worse than this share of the best counts as that share, and so does a failure: how bad the
bad ones are says nothing about the good ones, and would make the small differences between these vanish."""
_POSSIBLE = 3.0
"""Standard deviations: whatever would be farther off is not worth a last run."""
_SCALES = (0.3, 0.6, 1.2, 2.5)
_DOUBT = 1.25
"""Scales that were fitted to few points are too sure of themselves: deviations are taken larger."""
_NOISES = (0.02, 0.05, 0.1, 0.2)
"""Standard deviations of the noise, as shares of the values' own."""


@dataclass(frozen=True)
class Estimate:
    """What the surface is thought to be: `log_mean` and `log_sd` of every point's value."""

    log_mean: Floats
    log_sd: Floats


class Search:
    """Proposes settings of `space`; `value` (above 0, larger is better) is told back through `add`."""

    def __init__(
        self, space: Space, start: Setting, *, cost: Callable[[Setting], float] = lambda _: 1.0
    ) -> None:
        """`start` is a point of `space`. `cost` of a setting, in any unit, is asked for at every turn."""
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
        """What a setting achieved, or None if it could not be measured."""
        self._values[self._index[setting]] = value

    def next(self) -> Setting | None:
        """The setting to measure now; None when nothing better is to be expected."""
        left = [i for i in range(len(self.points)) if i not in self._values]
        if not left:
            return None
        if self._start not in self._values:
            return self.points[self._start]
        if len(self._values) < min(COARSE_RUNS, len(self.points) // 4):
            return self.points[self._farthest(left)]
        return self._most_promising(left)

    def best(self, n: int) -> list[Setting]:
        """The `n` measured settings that are thought best, best first; noise is smoothed away."""
        measured = [i for i, value in self._values.items() if value is not None]
        if not measured:
            return []
        estimate = self.estimate()
        ranked = sorted(measured, key=lambda i: -float(estimate.log_mean[i]))
        return [self.points[i] for i in ranked[:n]]

    def estimate(self) -> Estimate:
        seen = np.array(sorted(self._values))
        values = [self._values[i] for i in seen]
        floor = _FLOOR * max((value for value in values if value is not None), default=1.0)
        logs = np.log([max(floor, value or floor) for value in values])
        return _fit(self._places, seen, logs)

    def _farthest(self, left: Sequence[int]) -> int:
        seen = self._places[list(self._values)]
        gaps = np.linalg.norm(self._places[list(left), None] - seen[None], axis=2).min(axis=1)
        return left[int(np.argmax(gaps))]

    def _most_promising(self, left: Sequence[int]) -> Setting | None:
        measured = [i for i, value in self._values.items() if value is not None]
        if not measured:
            return self.points[self._farthest(left)]
        estimate = self.estimate()
        # Against the best mean and not the best figure, which a lucky run has raised.
        best = float(estimate.log_mean[measured].max())
        gain = _expected_improvement(estimate.log_mean[left], estimate.log_sd[left], best)
        if float(gain.max()) < ENOUGH:
            return self._last_doubt(left, estimate)
        costs = np.array([self._cost(self.points[i]) for i in left])
        # A setting that promises far less than the best is not run just because it is cheap.
        worthwhile = np.where(gain >= 0.3 * gain.max(), gain / costs, 0.0)
        return self.points[left[int(np.argmax(worthwhile))]]

    def _last_doubt(self, left: Sequence[int], estimate: Estimate) -> Setting | None:
        """A direct neighbour of the best that could just possibly be better, before the search ends."""
        best = self._index[self.best(1)[0]]
        near = [
            i
            for i in left
            if np.count_nonzero(steps := np.abs(self._ranks[i] - self._ranks[best])) == 1
            and (steps.max() == 1 or self._nominal[int(steps.argmax())])
            and estimate.log_mean[i] + _POSSIBLE * estimate.log_sd[i] > estimate.log_mean[best]
        ]
        return self.points[max(near, key=lambda i: float(estimate.log_mean[i]))] if near else None


def _places(space: Space, points: Sequence[Setting]) -> Floats:
    """[points, axes] in 0..1: an axis's values by rank, since each is about a factor from the next.

    Names have no order: each gets a column of its own, in which it is 0.5 away from the others.
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


def _expected_improvement(mean: Floats, sd: Floats, best: float) -> Floats:
    """Of the logarithm, so about a share of the best value."""
    sd = np.maximum(sd, 1e-9)
    z = (mean - best) / sd
    density = np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)
    gain: Floats = (mean - best) * ndtr(z) + sd * density
    return gain


# --- the Gaussian process ------------------------------------------------------------------------


def _kernel(a: Floats, b: Floats, scales: Floats) -> Floats:
    """Matern 5/2: as smooth as queues and cores are, which have bends."""
    distance = np.sqrt((((a[:, None] - b[None]) / scales) ** 2).sum(axis=2))
    r = math.sqrt(5) * distance
    covariance: Floats = (1 + r + r**2 / 3) * np.exp(-r)
    return covariance


def _fit(places: Floats, seen: npt.NDArray[np.int64], logs: Floats) -> Estimate:
    """The posterior of all `places` given the `logs` of those `seen`."""
    mean, scale = float(logs.mean()), max(float(logs.std()), 0.02)
    normal = (logs - mean) / scale
    scales, noise = _likeliest(places[seen], normal)
    covariance = _kernel(places[seen], places[seen], scales) + noise**2 * np.eye(len(seen))
    cross = _kernel(places, places[seen], scales)
    solved = np.linalg.solve(covariance, np.column_stack([normal, cross.T]))
    variance = 1 - np.einsum("ij,ji->i", cross, solved[:, 1:])
    deviation = _DOUBT * scale * np.sqrt(np.maximum(variance, 0.0))
    return Estimate(mean + scale * (cross @ solved[:, 0]), deviation)


def _likeliest(x: Floats, y: Floats) -> tuple[Floats, float]:
    """Length scales and noise that explain `y` best, axis by axis; a long scale is an idle axis."""
    scales, noise = np.full(x.shape[1], 0.6), 0.05
    best = _log_likelihood(x, y, scales, noise)
    for _ in range(2):
        for axis in range(x.shape[1]):
            for candidate in _SCALES:
                trial = scales.copy()
                trial[axis] = candidate
                score = _log_likelihood(x, y, trial, noise)
                if score > best:
                    best, scales = score, trial
        for level in _NOISES:
            score = _log_likelihood(x, y, scales, level)
            if score > best:
                best, noise = score, level
    return scales, noise


def _log_likelihood(x: Floats, y: Floats, scales: Floats, noise: float) -> float:
    covariance = _kernel(x, x, scales) + noise**2 * np.eye(len(x))
    factor = np.linalg.cholesky(covariance)
    white = np.linalg.solve(factor, y)
    # The prior keeps few points from explaining everything with one axis of a short scale.
    prior = -0.5 * float(((np.log(scales) - math.log(0.8)) ** 2).sum())
    return float(-0.5 * white @ white - np.log(np.diag(factor)).sum()) + prior
