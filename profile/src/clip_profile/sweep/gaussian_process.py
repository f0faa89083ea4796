"""A Gaussian process: Matern 5/2 with one length scale per axis, fitted to few noisy values."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import cdist
from scipy.special import ndtr

Floats = npt.NDArray[np.float64]

_SCALES = (0.3, 0.6, 1.2, 2.5)
_NOISES = (0.02, 0.05, 0.1, 0.2)
"""Standard deviations of the noise, as shares of the values' own."""
_DOUBT = 1.25
"""Scales that are fitted to few points are overconfident, so deviations are enlarged."""


@dataclass(frozen=True)
class Estimate:
    """The mean and standard deviation of the value at each place."""

    mean: Floats
    sd: Floats

    def expected_improvement(self, best: float) -> Floats:
        """Over `best`, at each place."""
        sd = np.maximum(self.sd, 1e-9)
        z = (self.mean - best) / sd
        density = np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)
        gain: Floats = (self.mean - best) * ndtr(z) + sd * density
        return gain


def fit(places: Floats, seen: npt.NDArray[np.int64], values: Floats) -> Estimate:
    """The posterior at all `places` [places, axes], given the `values` at those `seen` (indices)."""
    mean, scale = float(values.mean()), max(float(values.std()), 0.02)
    normal = (values - mean) / scale
    scales, noise = _likeliest(places[seen], normal)
    covariance = _kernel(places[seen], places[seen], scales) + noise**2 * np.eye(len(seen))
    cross = _kernel(places, places[seen], scales)
    solved = np.linalg.solve(covariance, np.column_stack([normal, cross.T]))
    variance = 1 - np.einsum("ij,ji->i", cross, solved[:, 1:])
    deviation = _DOUBT * scale * np.sqrt(np.maximum(variance, 0.0))
    return Estimate(mean + scale * (cross @ solved[:, 0]), deviation)


def _kernel(a: Floats, b: Floats, scales: Floats) -> Floats:
    """Matern 5/2: smooth, but not too smooth for the bends where queues fill up or cores run out."""
    r = math.sqrt(5) * cdist(a / scales, b / scales)
    covariance: Floats = (1 + r + r**2 / 3) * np.exp(-r)
    return covariance


def _likeliest(x: Floats, y: Floats) -> tuple[Floats, float]:
    """The length scales and the noise that explain `y` best, searched axis by axis."""
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
    # The prior keeps a few points from explaining everything with a short scale on one axis.
    prior = -0.5 * float(((np.log(scales) - math.log(0.8)) ** 2).sum())
    return float(-0.5 * white @ white - np.log(np.diag(factor)).sum()) + prior
