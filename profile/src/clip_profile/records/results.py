"""The runs of each setting, put together."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from clip_profile.errors import ProfileError
from clip_profile.records.measurement import Failure, Measurement
from clip_profile.records.run_folder import RunFolder
from clip_profile.records.setting import Setting
from clip_profile.records.statistics import Observation, Rounds, Spread

Figure = Callable[[Measurement], float | None]

UNKNOWN_NOISE = 0.05
"""Relative standard deviation of one run if nothing was repeated."""


@dataclass(frozen=True)
class Result:
    """One setting's runs: the interleaved repeats if there are any, else the single run.

    `failures` are those in rounds.
    """

    setting: Setting
    closed: tuple[Measurement, ...]
    poisson: tuple[Measurement, ...]
    failures: tuple[Failure, ...] = ()

    @property
    def repeated(self) -> bool:
        return len(self.closed) > 1

    @property
    def breaks(self) -> tuple[Failure, ...]:
        """Failures that disqualify the setting: an open loop can fail because of perf_analyzer alone."""
        return tuple(one for one in self.failures if one.arrival == "closed" or one.died)

    @property
    def in_rounds(self) -> int:
        return sum(one.round is not None for one in self.closed)

    @property
    def photos_per_s(self) -> float:
        return self.mean(lambda one: one.photos_per_s) or 0.0

    @property
    def p95_ms(self) -> float:
        return self.mean(lambda one: one.p95_ms) or 0.0

    def spread(self, figure: Figure) -> Spread | None:
        """Over the closed loop's repeats; None if it was not measured."""
        values = [value for one in self.closed if (value := figure(one)) is not None]
        return Spread.of(values) if values else None

    def mean(self, figure: Figure) -> float | None:
        spread = self.spread(figure)
        return spread.mean if spread else None


def results_of(run: RunFolder) -> list[Result]:
    """Every setting that was measured, highest throughput first. Raises ProfileError if there is none."""
    own: dict[Setting, list[Measurement | Failure]] = {}
    for one in run.records.values():
        own.setdefault(one.setting, []).append(one)
    found = [result for setting, records in own.items() if (result := _result(setting, records)).closed]
    if not found:
        raise ProfileError(f"{run.path} has no measurements yet")
    return sorted(found, key=lambda one: -one.photos_per_s)


def _result(setting: Setting, records: Sequence[Measurement | Failure]) -> Result:
    measured = [one for one in records if isinstance(one, Measurement)]
    failed = [one for one in records if isinstance(one, Failure)]
    closed = [one for one in measured if one.arrival == "closed"]
    return Result(
        setting=setting,
        closed=tuple([one for one in closed if one.round] or closed),
        poisson=tuple(one for one in measured if one.arrival == "poisson"),
        failures=tuple(one for one in failed if one.round),
    )


def rounds_of(results: Sequence[Result], figure: Figure, sources: Sequence[str] | None = None) -> Rounds:
    """The interleaved repeats of `results`; a result's subject is its index, as text.

    `sources` tell results of several runs apart: rounds of different runs have nothing in common.
    """
    return Rounds(
        [
            Observation(str(index), f"{source} {one.round.group}.{one.round.number}", value)
            for index, (result, source) in enumerate(
                zip(results, sources or [""] * len(results), strict=True)
            )
            for one in result.closed
            if one.round and (value := figure(one)) is not None and value > 0
        ]
    )


def noise_of(rounds: Rounds) -> float:
    """Relative standard deviation of one run, from the repeats."""
    return UNKNOWN_NOISE if math.isnan(rounds.noise) else rounds.noise


def frontier(results: Sequence[Result]) -> list[Result]:
    """Results that no other beats in both throughput and p95; lowest p95 first."""
    best, kept = 0.0, []
    for result in sorted(results, key=lambda one: (one.p95_ms, -one.photos_per_s)):
        if result.photos_per_s > best:
            best = result.photos_per_s
            kept.append(result)
    return kept
