"""`clip-profile recommend`: the best setting under an objective, how certain that is, and its bottleneck."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from clip_profile.answer import metrics
from clip_profile.answer.bottleneck import Bottleneck, bottleneck_of
from clip_profile.answer.placement import Placement, placement_of
from clip_profile.records.measurement import Failure
from clip_profile.records.objective import Objective
from clip_profile.records.results import Result, noise_of, results_of, rounds_of
from clip_profile.records.run_folder import RunFolder
from clip_profile.records.statistics import Spread

_SHOWN = 4
_UNSTEADY = 0.1
"""One run's relative standard deviation above which the machine is called unsteady."""

_INT8 = (
    "int8 embeddings differ more from open_clip's (spec.json has the cosine on the export's photos) and vary "
    "slightly with the batch. If your index needs more, sweep with --encoder-precision fp32,bf16."
)


@dataclass(frozen=True)
class Recommendation:
    """`best` is None if no setting that works in every round meets the objective; `nearest` comes closest.

    `equals` also meet it and are not proven slower. `failed` would have been the best if they had not failed
    in a round. `rivals` counts the other repeated settings that meet the objective. `tried` of `settings`
    settings were measured or failed. `cores` are the server's, None on another machine. `placement` is None
    if nothing is known about decoding.
    """

    objective: Objective
    best: Result | None
    nearest: Result
    equals: tuple[Result, ...]
    failed: tuple[Result, ...]
    rivals: int
    noise: float
    bottleneck: Bottleneck
    tried: int
    settings: int
    cores: int | None
    placement: Placement | None = None

    @property
    def open_loop_p95(self) -> Spread | None:
        """Of the best setting with Poisson arrivals, ms; None if it was not measured."""
        runs = self.best.poisson if self.best else ()
        if not runs:
            return None
        return metrics.open_loop(runs, 95) or Spread.of([one.p95_ms for one in runs])

    @property
    def open_loop_too_slow(self) -> bool:
        p95, bound = self.open_loop_p95, self.objective.p95_ms
        return p95 is not None and bound is not None and p95.mean > bound

    def sentences(self) -> list[str]:
        """For people: the setting, its figures, how certain they are, the bottleneck, what to do next."""
        failed = [_failed(one) for one in self.failed[:_SHOWN]]
        tried = f"{self.tried} of {self.settings} settings were tried."
        if self.best is None and failed:
            return [
                f"No setting that meets the objective ({self.objective.describe()}) worked in every round.",
                tried,
                *failed,
                "Next: find the cause, then measure them again with: sweep --retry-failed",
            ]
        next_step = f"Next: {self.bottleneck.next_step}"
        if self.best is None:
            return [
                f"No setting that was measured meets the objective ({self.objective.describe()}).",
                tried,
                f"Nearest: {self.nearest.setting.describe()}: {describe(self.nearest)}.",
                self.bottleneck.why,
                next_step,
            ]
        best = self.best
        return [
            f"Best for {self.objective.describe()}: {best.setting.describe()}.",
            f"It reaches {describe(best)}. {tried}",
            *self._open_loop(best),
            *([_INT8] if best.setting.on_cpu and best.setting.encoder_precision == "int8" else []),
            self._certainty(best),
            *failed,
            *self._more_than_cores(best),
            self.bottleneck.why,
            *(self.placement.sentences() if self.placement else []),
            next_step,
        ]

    def _open_loop(self, best: Result) -> list[str]:
        p95 = self.open_loop_p95
        if p95 is None:
            return [f"Poisson arrivals failed: {_first_line(best.failures[0])}."] if best.failures else []
        latencies = [one.p95_ms for one in best.poisson]
        rate = sum(one.rate or 0.0 for one in best.poisson) / len(latencies)
        said = [
            f"With Poisson arrivals at {rate:.1f} requests/s its p95 is {p95.mean:.0f} ms "
            f"({min(latencies):.0f} to {max(latencies):.0f})."
        ]
        if self.open_loop_too_slow:
            said.append(
                f"Warning: that exceeds your bound of {self.objective.p95_ms:g} ms, which the setting meets "
                "only in a closed loop. For requests that do not wait for each other, plan for a lower rate "
                "or give a lower --p95-ms."
            )
        return said

    def _more_than_cores(self, best: Result) -> list[str]:
        if self.cores is None:
            return []
        warnings = best.setting.layout.past(self.cores, encoder_on_cpu=best.setting.on_cpu)
        return [f"Warning: {text}." for text in warnings]

    def _certainty(self, best: Result) -> str:
        if not best.repeated:
            bound = self.objective.p95_ms
            option = "" if bound is None else f" with --p95-ms {bound:g}"
            return f"It was measured only once: run the same sweep again{option} to repeat it."
        unsteady = ""
        if self.noise > _UNSTEADY:
            unsteady = f" The machine was unsteady: one run varies by {self.noise:.0%}."
        if not self.rivals:
            return f"No other repeated setting meets the objective.{unsteady}"
        if not self.equals:
            return f"It is faster than every other repeated setting, beyond noise.{unsteady}"
        names = "; ".join(one.setting.describe() for one in self.equals[:_SHOWN])
        return f"No difference beyond noise (one run: ±{self.noise:.1%}) from: {names}.{unsteady}"

    def to_dict(self) -> dict[str, Any]:
        """For machines."""
        shown, p95 = self.best or self.nearest, self.open_loop_p95
        return {
            "met": self.best is not None,
            "objective": asdict(self.objective),
            "setting": asdict(shown.setting),
            "label": shown.setting.label,
            "photos_per_s": shown.photos_per_s,
            "p95_ms": shown.p95_ms,
            "open_loop_p95_ms": p95.mean if p95 else None,
            "runs": len(shown.closed),
            "tried": self.tried,
            "settings": self.settings,
            "noise": self.noise,
            "equals": [one.setting.label for one in self.equals],
            "failed": {one.setting.label: one.breaks[0].text for one in self.failed},
            "bottleneck": asdict(self.bottleneck),
            "placement": self.placement.to_dict() if self.placement else None,
            "text": self.sentences(),
        }


def recommend(run: RunFolder, objective: Objective) -> Recommendation:
    """Raises ProfileError if nothing was measured."""
    results = results_of(run)
    ranking = _Ranking(results)
    able = [one for one in results if objective.met(one)]
    steady = [one for one in able if not one.breaks]
    best = max(steady, key=ranking.value, default=None)
    least = ranking.value(best) if best else 0.0
    failed = [one for one in able if one.breaks and ranking.value(one) > least]
    failed.sort(key=ranking.value, reverse=True)
    nearest = best or (failed[0] if failed else min(results, key=objective.miss))
    return Recommendation(
        objective=objective,
        best=best,
        nearest=nearest,
        equals=ranking.equals(best, steady) if best else (),
        failed=tuple(failed),
        rivals=sum(one.repeated for one in steady if one is not best),
        noise=ranking.noise,
        bottleneck=bottleneck_of(nearest),
        tried=len({trial.setting for trial in run.records}),
        settings=len(run.about.space.points()),
        cores=run.about.cores,
        placement=placement_of(nearest, run.about),
    )


class _Ranking:
    """Compares throughputs in the rounds that settings share, so that the machine's drift does not count."""

    def __init__(self, results: Sequence[Result]) -> None:
        self._rounds = rounds_of(results, lambda one: one.photos_per_s)
        self._names = {one.setting: str(index) for index, one in enumerate(results)}
        self.noise = noise_of(self._rounds)

    def value(self, result: Result) -> float:
        """The luckiest of many single runs is better than its setting, so it is discounted by likely luck."""
        luck = 1.5 * self.noise / math.sqrt(len(result.closed))
        return (self._rounds.level(self._names[result.setting]) or result.photos_per_s) * (1 - luck)

    def equals(self, best: Result, others: Sequence[Result]) -> tuple[Result, ...]:
        """Those of `others` that were repeated and are not proven slower than `best`."""

        def slower(one: Result) -> bool:
            return self._rounds.difference(self._names[best.setting], self._names[one.setting]).high < 1

        repeated = [one for one in others if one.repeated and one is not best] if best.repeated else []
        return tuple(one for one in repeated if not slower(one))


def _first_line(failure: Failure) -> str:
    return failure.text.splitlines()[0].rstrip(".")


def _failed(result: Result) -> str:
    failed = f"but failed in a round: {_first_line(result.breaks[0])}"
    return f"Excluded: {result.setting.describe()}. It reached {describe(result)}, {failed}."


def describe(result: Result) -> str:
    """Throughput and p95 with their spread."""
    rate = metrics.THROUGHPUT.text(result.spread(metrics.THROUGHPUT.of))
    return f"{rate} photos/s with a p95 of {metrics.P95.text(result.spread(metrics.P95.of))} ms"
