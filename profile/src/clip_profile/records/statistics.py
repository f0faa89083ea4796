"""Percentiles, spread, and the question whether a difference is more than noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy import stats

CONFIDENCE = 0.95
"""Of every interval that is printed."""
_EXACT = 1e-9
"""Differences below this share are the arithmetic's own."""


def percentile(values: Sequence[float], percent: float) -> float:
    """The value below which `percent` (0..100) of them lie; between two of them, linearly."""
    if not values:
        raise ValueError("no values")
    return float(np.percentile(np.asarray(values, np.float64), percent))


@dataclass(frozen=True)
class Spread:
    """The mean of repeats and how sure it is: `half` is half of its 95 % interval, in the same unit.

    `half` is None for a single value, whose spread nobody knows.
    """

    mean: float
    half: float | None
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Student's interval: with few repeats it is wide, as it should be."""
        if not values:
            raise ValueError("no values")
        mean, n = math.fsum(values) / len(values), len(values)
        if n == 1:
            return cls(mean, None, 1)
        error = float(np.std(values, ddof=1)) / math.sqrt(n)
        return cls(mean, float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) * error, n)


@dataclass(frozen=True)
class Difference:
    """`b` against `a`: the ratio b / a, its 95 % interval, and whether 1 lies outside of that.

    The interval is (0, inf) where nothing was repeated, and then no difference is ever proved. The ratio is
    NaN where no rounds connect the two.
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
    """One figure (above 0) of `subject` in one round of repeats."""

    subject: str
    round: str
    value: float


class Rounds:
    """Interleaved repeats, in which the machine's drift from round to round counts for nobody.

    log(value) = subject + round + noise, fitted by least squares; missing observations do no harm. So a
    slow minute that met every subject alike neither makes nor hides a difference.
    """

    def __init__(self, observations: Sequence[Observation]) -> None:
        self._subjects = sorted({one.subject for one in observations})
        rounds = sorted({one.round for one in observations})
        columns = {("subject", name): i for i, name in enumerate(self._subjects)}
        columns |= {("round", name): len(self._subjects) + i for i, name in enumerate(rounds)}
        self._design = np.zeros((len(observations), len(columns)))
        for row, one in enumerate(observations):
            self._design[row, columns["subject", one.subject]] = 1
            self._design[row, columns["round", one.round]] = 1
        self._logs = np.log([one.value for one in observations])

    @cached_property
    def _inverse(self) -> npt.NDArray[np.float64]:
        return np.asarray(np.linalg.pinv(self._design.T @ self._design))

    @cached_property
    def _effects(self) -> npt.NDArray[np.float64]:
        return np.asarray(self._inverse @ self._design.T @ self._logs)

    @cached_property
    def freedom(self) -> int:
        """Degrees of freedom left for the noise; 0 where nothing was repeated."""
        return len(self._logs) - int(np.linalg.matrix_rank(self._design)) if len(self._logs) else 0

    @cached_property
    def noise(self) -> float:
        """One run's relative standard deviation, drift left out; NaN where nothing was repeated."""
        if not self.freedom:
            return math.nan
        residual = self._logs - self._design @ self._effects
        return float(np.sqrt(residual @ residual / self.freedom))

    def difference(self, a: str, b: str) -> Difference:
        """b against a. Raises KeyError for a subject that was not observed."""
        contrast = np.zeros(self._design.shape[1])
        for name, sign in ((a, -1.0), (b, 1.0)):
            if name not in self._subjects:
                raise KeyError(name)
            contrast[self._subjects.index(name)] += sign
        if a == b:
            return Difference(1.0, 1.0, 1.0)
        if not self._estimable(contrast):
            return Difference(math.nan, 0.0, math.inf)
        ratio = math.exp(float(contrast @ self._effects))
        if not self.freedom:
            return Difference(ratio, 0.0, math.inf)
        error = self.noise * math.sqrt(max(0.0, float(contrast @ self._inverse @ contrast)))
        reach = max(float(stats.t.ppf((1 + CONFIDENCE) / 2, self.freedom)) * error, _EXACT)
        return Difference(ratio, ratio * math.exp(-reach), ratio * math.exp(reach))

    def level(self, subject: str) -> float | None:
        """What a run of it does in the mean of all rounds, had it been in each of them.

        None where no chain of common rounds tells. Raises KeyError for a subject that was not observed.
        """
        if subject not in self._subjects:
            raise KeyError(subject)
        rounds = self._design.shape[1] - len(self._subjects)
        contrast = np.zeros(self._design.shape[1])
        contrast[len(self._subjects) :] = 1 / rounds
        contrast[self._subjects.index(subject)] = 1
        return math.exp(float(contrast @ self._effects)) if self._estimable(contrast) else None

    def _estimable(self, contrast: npt.NDArray[np.float64]) -> bool:
        """False where it takes subjects that no chain of common rounds connects."""
        normal = self._design.T @ self._design
        return bool(np.allclose(contrast @ self._inverse @ normal, contrast, atol=1e-8))
