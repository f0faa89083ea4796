"""`clip-profile recommend`: the best setting under an objective, how sure that is, and what bounds it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from clip_profile.answer import metrics
from clip_profile.answer.bottleneck import Bottleneck, bottleneck_of
from clip_profile.records.measurement import Failure
from clip_profile.records.objective import Objective
from clip_profile.records.results import Result, noise_of, results_of, rounds_of
from clip_profile.records.run_folder import RunFolder
from clip_profile.records.statistics import Spread

_SHOWN = 4
_UNSTEADY = 0.1
"""One run's relative standard deviation above which the machine, and not the settings, is what was seen."""

_INT8 = (
    "int8 embeddings are further from open_clip's (spec.json says how far on the export's photos) and vary a "
    "little with their batch: sweep with --encoder-precision fp32,bf16 if your index must not mind."
)


@dataclass(frozen=True)
class Recommendation:
    """`best` None: nothing that works in every round meets the objective; `nearest` comes closest to it.

    `equals` are settings that meet it too and are not proved to be slower. `failed` are those that would
    have been the best, had they not failed in a round after the search.
    """

    objective: Objective
    best: Result | None
    nearest: Result
    equals: tuple[Result, ...]
    noise: float
    bound: Bottleneck
    rivals: int = 0
    """How many other settings that were repeated meet the objective."""
    cores: int | None = None
    """Of the machine that served; None where it is another one."""
    failed: tuple[Result, ...] = ()

    def sentences(self) -> list[str]:
        """For people: what to take, what it does, how sure that is, what bounds it, what to do next."""
        failed = [_failed(one) for one in self.failed[:_SHOWN]]
        if self.best is None and failed:
            return [
                f"No setting that meets the objective ({self.objective.describe()}) worked in every round.",
                *failed,
                "Next: find out why; sweep with --retry-failed measures them again.",
            ]
        if self.best is None:
            return [
                f"No setting that was measured meets the objective ({self.objective.describe()}).",
                f"Nearest: {describe(self.nearest)}.",
                self.bound.why,
                f"Next: {self.bound.next_step}",
            ]
        best = self.best
        said = [
            f"Best for {self.objective.describe()}: {best.setting.describe()}.",
            f"It does {describe(best)}.",
        ]
        if best.poisson:
            said.append(_open_loop(best))
        elif best.failures:
            said.append(f"With Poisson arrivals it was not measured: {_first_line(best.failures[0])}.")
        if best.setting.on_cpu and best.setting.encoder_precision == "int8":
            said.append(_INT8)
        return [
            *said,
            self._certainty(),
            *failed,
            *self._past_cores(best),
            self.bound.why,
            f"Next: {self.bound.next_step}",
        ]

    def _past_cores(self, best: Result) -> list[str]:
        if self.cores is None:
            return []
        warnings = best.setting.layout.past(self.cores, encoder_on_cpu=best.setting.on_cpu)
        return [f"Warning: {text}." for text in warnings]

    def _certainty(self) -> str:
        if self.best is not None and not self.best.repeated:
            bound = self.objective.p95_ms
            option = "" if bound is None else f" with --p95-ms {bound:g}"
            return f"It was measured once only: the same sweep again{option} repeats it."
        unsteady = f" The machine was unsteady: one run varies by {self.noise:.0%}." * (
            self.noise > _UNSTEADY
        )
        if not self.rivals:
            return "No other setting that was repeated meets the objective." + unsteady
        if not self.equals:
            return "It is faster than every other setting that was repeated, beyond the noise." + unsteady
        names = ", ".join(one.setting.label for one in self.equals[:_SHOWN])
        return f"No difference within noise (one run: ±{self.noise:.1%}) to: {names}.{unsteady}"

    def to_dict(self) -> dict[str, Any]:
        """For machines."""
        shown = self.best or self.nearest
        return {
            "met": self.best is not None,
            "objective": asdict(self.objective),
            "setting": asdict(shown.setting),
            "label": shown.setting.label,
            "photos_per_s": shown.photos_per_s,
            "p95_ms": shown.p95_ms,
            "runs": len(shown.closed),
            "noise": self.noise,
            "equals": [one.setting.label for one in self.equals],
            "failed": {one.setting.label: one.breaks[0].text for one in self.failed},
            "bound": asdict(self.bound),
            "text": self.sentences(),
        }


def recommend(run: RunFolder, objective: Objective) -> Recommendation | None:
    """None where nothing was measured."""
    results = results_of(run)
    if not results:
        return None
    ranking = _Ranking(results)
    able = [one for one in results if objective.met(one.photos_per_s, one.p95_ms)]
    steady = [one for one in able if not one.breaks]
    best = max(steady, key=ranking.value, default=None)
    least = ranking.value(best) if best else 0.0
    failed = sorted((one for one in able if one.breaks and ranking.value(one) > least), key=ranking.value)
    nearest = best or (failed[-1] if failed else _nearest(results, objective))
    return Recommendation(
        objective,
        best,
        nearest,
        ranking.equals(best, steady) if best else (),
        ranking.noise,
        bottleneck_of(nearest),
        rivals=sum(one.repeated for one in steady if one is not best),
        cores=run.about.machine.cores if run.about.target == "embedded" else None,
        failed=tuple(reversed(failed)),
    )


class _Ranking:
    """Compares throughputs in the rounds that settings share, where the machine's drift counts for nobody."""

    def __init__(self, results: Sequence[Result]) -> None:
        self._rounds = rounds_of(results, lambda one: one.photos_per_s)
        self._names = {one.setting: str(number) for number, one in enumerate(results)}
        self.noise = noise_of(self._rounds)

    def value(self, result: Result) -> float:
        """The luckiest of many single runs is better than it is: so one counts less by its likely luck."""
        luck = 1.5 * self.noise / math.sqrt(len(result.closed))
        return self._level(result) * (1 - luck)

    def _level(self, result: Result) -> float:
        try:
            return self._rounds.level(self._names[result.setting]) or result.photos_per_s
        except KeyError:  # it was in no round
            return result.photos_per_s

    def equals(self, best: Result, others: Sequence[Result]) -> tuple[Result, ...]:
        """Those of `others` that were repeated and are not proved to be slower than `best`."""
        if not best.repeated:
            return ()
        name = self._names[best.setting]
        return tuple(
            one
            for one in others
            if one.repeated
            and one is not best
            and not self._rounds.difference(name, self._names[one.setting]).high < 1
        )


def _first_line(failure: Failure) -> str:
    return failure.text.splitlines()[0].rstrip(".")


def _failed(result: Result) -> str:
    text = _first_line(result.breaks[0])
    what = f"it did {describe(result)}, and failed in a later round: {text}"
    return f"Passed over: {result.setting.label}; {what}."


def describe(result: Result) -> str:
    """Throughput and p95 with their spread."""
    rate, p95 = result.spread(lambda one: one.photos_per_s), result.spread(lambda one: one.p95_ms)
    assert rate is not None
    assert p95 is not None
    shown = _with_spread(rate.mean, rate.half, 1), _with_spread(p95.mean, p95.half, 0)
    return f"{shown[0]} photos/s with a p95 of {shown[1]} ms"


def _with_spread(mean: float, half: float | None, digits: int) -> str:
    return f"{mean:.{digits}f}" if half is None else f"{mean:.{digits}f} ± {half:.{digits}f}"


def _open_loop(best: Result) -> str:
    rates = [one.rate or 0.0 for one in best.poisson]
    latencies = [one.p95_ms for one in best.poisson]
    p95 = metrics.open_loop(best.poisson, 95) or Spread.of(latencies)
    return (
        f"With Poisson arrivals at {sum(rates) / len(rates):.1f} requests/s its p95 is {p95.mean:.0f} ms "
        f"({min(latencies):.0f} to {max(latencies):.0f})."
    )


def _nearest(results: Sequence[Result], objective: Objective) -> Result:
    def miss(result: Result) -> float:
        late = result.p95_ms / objective.p95_ms if objective.p95_ms else 1.0
        slow = objective.min_photos_per_s / result.photos_per_s
        return max(late, 1.0) * max(slow, 1.0)

    return min(results, key=miss)
