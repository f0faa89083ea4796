"""The runs of each setting put together, as all that reads a run folder wants them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from clip_profile.records.measurement import Failure, Measurement
from clip_profile.records.run_folder import RunFolder
from clip_profile.records.setting import Setting
from clip_profile.records.statistics import Observation, Rounds, Spread

Figure = Callable[[Measurement], float | None]

UNKNOWN_NOISE = 0.05
"""One run's relative standard deviation where no repeats tell it."""


@dataclass(frozen=True)
class Result:
    """One setting's runs: the interleaved repeats where there are any, else the search's single one."""

    setting: Setting
    closed: tuple[Measurement, ...]
    poisson: tuple[Measurement, ...]
    failures: tuple[Failure, ...] = ()
    """Rounds, after the search, in which it did not work."""

    @property
    def repeated(self) -> bool:
        return len(self.closed) > 1

    @property
    def breaks(self) -> tuple[Failure, ...]:
        """Failures that speak against it: perf_analyzer may fail at an open loop by itself."""
        return tuple(one for one in self.failures if one.arrival == "closed" or one.died)

    @property
    def in_rounds(self) -> int:
        return sum(one.round > 0 for one in self.closed)

    @property
    def photos_per_s(self) -> float:
        return self.mean(lambda one: one.photos_per_s) or 0.0

    @property
    def p95_ms(self) -> float:
        return self.mean(lambda one: one.p95_ms) or 0.0

    def spread(self, figure: Figure) -> Spread | None:
        """Over the closed loop's repeats; None where it was not measured."""
        values = [value for one in self.closed if (value := figure(one)) is not None]
        return Spread.of(values) if values else None

    def mean(self, figure: Figure) -> float | None:
        spread = self.spread(figure)
        return spread.mean if spread else None


def results_of(run: RunFolder) -> list[Result]:
    """Every setting that was measured, highest throughput first."""
    settings = dict.fromkeys(one.setting for one in run.measurements)
    found = [_result(setting, run.measurements, run.failures) for setting in settings]
    return sorted((one for one in found if one.closed), key=lambda one: -one.photos_per_s)


def _result(setting: Setting, measurements: Iterable[Measurement], failures: Iterable[Failure]) -> Result:
    own = [one for one in measurements if one.setting == setting]
    closed = [one for one in own if one.arrival == "closed"]
    repeats = [one for one in closed if one.round > 0]
    return Result(
        setting=setting,
        closed=tuple(repeats or closed),
        poisson=tuple(one for one in own if one.arrival == "poisson"),
        failures=tuple(one for one in failures if one.setting == setting and one.round > 0),
    )


def rounds_of(results: Sequence[Result], figure: Figure, sources: Sequence[str] | None = None) -> Rounds:
    """The interleaved repeats of `results`, ready to compare by their numbers (as text) in it.

    `sources` tell results of several runs apart: rounds of different runs have nothing in common.
    """
    return Rounds(
        [
            Observation(str(number), f"{source} {one.round}", value)
            for number, (result, source) in enumerate(
                zip(results, sources or [""] * len(results), strict=True)
            )
            for one in result.closed
            if one.round > 0 and (value := figure(one)) is not None and value > 0
        ]
    )


def noise_of(rounds: Rounds) -> float:
    """One run's relative standard deviation, as the repeats show it."""
    return UNKNOWN_NOISE if math.isnan(rounds.noise) else rounds.noise


def frontier(results: Sequence[Result]) -> list[Result]:
    """Those that no other beats in both throughput and p95; lowest p95 first."""
    best, kept = 0.0, []
    for result in sorted(results, key=lambda one: (one.p95_ms, -one.photos_per_s)):
        if result.photos_per_s > best:
            best = result.photos_per_s
            kept.append(result)
    return kept
