"""Percentiles, spread, and whether a difference is more than noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy import stats

CONFIDENCE = 0.95
"""Of every interval."""
_EXACT = 1e-9
"""Relative differences below this are rounding errors."""


def percentile(values: Sequence[float], percent: float) -> float:
    """The value that `percent` (0..100) of them are below, interpolated linearly."""
    if not values:
        raise ValueError("no values")
    return float(np.percentile(np.asarray(values, np.float64), percent))


def _student(freedom: int) -> float:
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom))


@dataclass(frozen=True)
class Spread:
    """The mean of repeats; `half` is half of its 95 % interval, in the same unit, None for a single value."""

    mean: float
    half: float | None
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """With Student's interval, which is wide for few repeats."""
        if not values:
            raise ValueError("no values")
        mean, n = math.fsum(values) / len(values), len(values)
        if n == 1:
            return cls(mean, None, 1)
        return cls(mean, _student(n - 1) * float(np.std(values, ddof=1)) / math.sqrt(n), n)


@dataclass(frozen=True)
class Difference:
    """`b` against `a`: the ratio b / a and its 95 % interval.

    Without repeats the interval is (0, inf). The ratio is NaN if no rounds connect the two.
    """

    ratio: float
    low: float
    high: float

    @property
    def proved(self) -> bool:
        return self.low > 1 or self.high < 1

    @property
    def percent(self) -> float:
        return (self.ratio - 1) * 100


@dataclass(frozen=True)
class Observation:
    """One value (above 0) of `subject` in one round of repeats."""

    subject: str
    round: str
    value: float


class Rounds:
    """Interleaved repeats, compared without the machine's drift from round to round.

    log(value) = subject + round + noise, fitted by least squares; observations may be missing. A slow minute
    that affected every subject alike neither makes nor hides a difference.
    """

    def __init__(self, observations: Sequence[Observation]) -> None:
        self._subjects = sorted({one.subject for one in observations})
        rounds = sorted({one.round for one in observations})
        self._design = np.zeros((len(observations), len(self._subjects) + len(rounds)))
        for row, one in enumerate(observations):
            self._design[row, self._subjects.index(one.subject)] = 1
            self._design[row, len(self._subjects) + rounds.index(one.round)] = 1
        self._logs = np.log([one.value for one in observations])

    @cached_property
    def _inverse(self) -> npt.NDArray[np.float64]:
        return np.asarray(np.linalg.pinv(self._design.T @ self._design))

    @cached_property
    def _effects(self) -> npt.NDArray[np.float64]:
        return np.asarray(self._inverse @ self._design.T @ self._logs)

    @cached_property
    def freedom(self) -> int:
        """Degrees of freedom that are left for the noise; 0 without repeats."""
        return len(self._logs) - int(np.linalg.matrix_rank(self._design)) if len(self._logs) else 0

    @cached_property
    def noise(self) -> float:
        """One run's relative standard deviation, without the drift; NaN without repeats."""
        if not self.freedom:
            return math.nan
        residual = self._logs - self._design @ self._effects
        return float(np.sqrt(residual @ residual / self.freedom))

    def difference(self, a: str, b: str) -> Difference:
        """b against a; the ratio is NaN for a subject without observations, too."""
        contrast = np.zeros(self._design.shape[1])
        for name, sign in ((a, -1.0), (b, 1.0)):
            if name not in self._subjects:
                return Difference(math.nan, 0.0, math.inf)
            contrast[self._subjects.index(name)] += sign
        if a == b:
            return Difference(1.0, 1.0, 1.0)
        if not self._estimable(contrast):
            return Difference(math.nan, 0.0, math.inf)
        ratio = math.exp(float(contrast @ self._effects))
        if not self.freedom:
            return Difference(ratio, 0.0, math.inf)
        error = self.noise * math.sqrt(max(0.0, float(contrast @ self._inverse @ contrast)))
        reach = max(_student(self.freedom) * error, _EXACT)
        return Difference(ratio, ratio * math.exp(-reach), ratio * math.exp(reach))

    def level(self, subject: str) -> float | None:
        """The subject's value in the mean of all rounds, as if it had been in each of them.

        None without observations, or if no chain of common rounds connects it to the others.
        """
        if subject not in self._subjects:
            return None
        contrast = np.zeros(self._design.shape[1])
        contrast[len(self._subjects) :] = 1 / (len(contrast) - len(self._subjects))
        contrast[self._subjects.index(subject)] = 1
        return math.exp(float(contrast @ self._effects)) if self._estimable(contrast) else None

    def _estimable(self, contrast: npt.NDArray[np.float64]) -> bool:
        """False if it needs subjects that no chain of common rounds connects."""
        normal = self._design.T @ self._design
        return bool(np.allclose(contrast @ self._inverse @ normal, contrast, atol=1e-8))
