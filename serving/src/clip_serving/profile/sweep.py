"""The sweep: search, then interleaved rounds of the finalists, then their loads, within the budget.

Whatever fails is recorded and passed over. Whatever is recorded is never measured again.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from clip_serving.errors import ClipServingError, ProfileError
from clip_serving.profile.console import Console, duration
from clip_serving.profile.load import Load
from clip_serving.profile.measure import closed, poisson
from clip_serving.profile.measurement import Arrival, Failure, Measurement
from clip_serving.profile.objective import Objective
from clip_serving.profile.run_folder import RunFolder
from clip_serving.profile.search import Search
from clip_serving.profile.setting import Setting
from clip_serving.profile.target import Served, Target

Key = tuple[Setting, int, Arrival]
Measurer = Callable[[Served, Setting, Load, int], Measurement]
"""Presses a server that serves a setting with a load, in a round; raises ClipServingError."""


@dataclass(frozen=True)
class SweepOptions:
    """Times in seconds. `share` of a finalist's closed-loop throughput is offered to it as arrivals."""

    budget_s: float
    seconds: float
    objective: Objective = field(default_factory=Objective)
    finalists: int = 3
    rounds: int = 3
    share: float = 0.7
    exhaustive: bool = False
    start: Setting | None = None


class Sweep:
    """One sweep of a run folder's space on a target; `run` returns when all is done or time is up."""

    def __init__(
        self,
        run: RunFolder,
        target: Target,
        measurer: Measurer,
        options: SweepOptions,
        console: Console,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run, self._target, self._measurer = run, target, measurer
        self._options, self._console, self._clock = options, console, clock
        self._end = clock() + options.budget_s
        self._measured: dict[Key, Measurement] = {
            (one.setting, one.round, one.arrival): one for one in run.measurements
        }
        self._failed: set[Key] = {(one.setting, one.round, one.arrival) for one in run.failures}
        self._start_s = 10.0
        """What a start of the server took lately, and what a run takes beyond its windows."""
        self._over_s = 3.0
        points = run.about.space.points()
        start = options.start if options.start in points else points[len(points) // 2]
        self._search = Search(run.about.space, start or points[0], cost=self._cost)
        for (setting, number, arrival), one in self._measured.items():
            if number == 0 and arrival == "closed":
                self._search.add(setting, options.objective.value(one))
        for setting, number, arrival in self._failed:
            if number == 0 and arrival == "closed":
                self._search.add(setting, None)

    def run(self) -> bool:
        """Whether at least one setting could be measured. Raises ProfileError if it cannot go on."""
        finalists = self._finalists_before()
        if len(finalists) < self._options.finalists:
            self._find()
            more = self._search.best(self._options.finalists)
            finalists = list(dict.fromkeys([*finalists, *more]))[: self._options.finalists]
        if not finalists:
            last = self._run.failures[-1].text if self._run.failures else "the budget was too short"
            self._console.line(f"not one setting could be measured; the last one: {last}")
            return False
        whole = self._compare(finalists) and self._press(finalists)
        left = duration(self._end - self._clock())
        self._console.line(
            f"done: {len(self._run.measurements)} runs, {len(self._run.failures)} failed; "
            + (f"{left} of the budget were not needed" if whole else "the budget is too short for the rest")
        )
        return True

    def _finalists_before(self) -> list[Setting]:
        """Those of an earlier part of this sweep: what the frontier showed since does not replace them."""
        records: list[Measurement | Failure] = [*self._run.measurements, *self._run.failures]
        repeated = sorted((one for one in records if one.round > 0), key=lambda one: one.at)
        return list(dict.fromkeys(one.setting for one in repeated))

    # --- the three parts ---------------------------------------------------------------------

    def _find(self) -> None:
        for setting in self._proposals():
            if not self._time_for(setting, reserve=self._reserve_s()):
                self._console.line("the time that is left belongs to the finalists")
                return
            one = self._measure(setting, 0, "search")
            self._search.add(setting, self._options.objective.value(one) if one else None)

    def _proposals(self) -> Iterator[Setting]:
        if self._options.exhaustive:
            yield from self._all_points()
            return
        while (setting := self._search.next()) is not None:
            yield setting

    def _all_points(self) -> Iterator[Setting]:
        """Server by server in a random order, so that no axis goes with the machine's drift."""
        order = random.Random(0)
        servers: dict[Setting, list[Setting]] = {}
        for point in self._search.points:
            servers.setdefault(point.server, []).append(point)
        for server in order.sample(list(servers), len(servers)):
            for point in order.sample(servers[server], len(servers[server])):
                if not self._known(point, 0, "closed"):
                    yield point

    def _compare(self, finalists: list[Setting]) -> bool:
        """Round by round, each in another order: no finalist gets the machine's better minutes.

        Whether there was time for all of it.
        """
        for number in range(1, self._options.rounds + 1):
            turn = number % len(finalists)
            for setting in [*finalists[turn:], *finalists[:turn]]:
                if not self._time_for(setting, runs=2):
                    return False
                one = self._measure(setting, number, f"round {number} of {self._options.rounds}")
                if one is not None:
                    self._measure_poisson(setting, number, one.photos_per_s)
        return True

    def _press(self, finalists: list[Setting]) -> bool:
        """The finalists' servers under the other loads: the frontier of throughput against latency.

        Whether there was time for all of it.
        """
        for server in dict.fromkeys(setting.server for setting in finalists):
            for setting in (point for point in self._search.points if point.server == server):
                if self._known(setting, 0, "closed"):
                    continue
                if not self._time_for(setting):
                    return False
                self._measure(setting, 0, "frontier")
        return True

    # --- one run -----------------------------------------------------------------------------

    def _measure(self, setting: Setting, number: int, part: str) -> Measurement | None:
        def load(served: Served) -> Load:
            return closed(setting, self._guess(setting, served.photos_per_s), self._options.seconds)

        return self._attempt(setting, number, "closed", part, load)

    def _measure_poisson(self, setting: Setting, number: int, photos_per_s: float) -> None:
        def load(served: Served) -> Load:
            del served
            return poisson(setting, photos_per_s, self._options.share, self._options.seconds, seed=number)

        self._attempt(setting, number, "poisson", f"round {number}, Poisson arrivals", load)

    def _attempt(
        self, setting: Setting, number: int, arrival: Arrival, part: str, load: Callable[[Served], Load]
    ) -> Measurement | None:
        key: Key = (setting, number, arrival)
        if self._known(*key):
            return self._measured.get(key)
        self._console.doing(f"{part}: {setting.label} ... {duration(self._end - self._clock())} left")
        begin = self._clock()
        try:
            restart = self._target.running != setting.server
            served = self._target.serve(setting)
            ready = self._clock()
            if restart:
                self._start_s = ready - begin
            wanted = load(served)
            one = self._measurer(served, setting, wanted, number)
        except ClipServingError as error:
            # A death explains more than what perf_analyzer made of it.
            death = self._target.explain_death() if self._target.running else None
            if death and not self._target.restarts:
                raise ProfileError(f"{death}. What was measured is kept; the same command goes on") from error
            text = death or str(error)
            self._failed.add(key)
            self._run.add(Failure(setting, number, arrival, time.time(), text))
            self._console.line(f"{part}: {setting.label}: FAILED: {text.splitlines()[0]}")
            return None
        self._over_s = self._clock() - ready - wanted.seconds
        self._measured[key] = one
        self._run.add(one)
        self._console.line(
            f"{part}: {setting.label}: {one.photos_per_s:.1f} photos/s, p95 {one.p95_ms:.0f} ms"
            + (f" at {one.rate:.1f} requests/s" if one.rate else "")
            + f"; {duration(self._end - self._clock())} left"
        )
        return one

    def _known(self, setting: Setting, number: int, arrival: Arrival) -> bool:
        key: Key = (setting, number, arrival)
        return key in self._measured or key in self._failed

    def _guess(self, setting: Setting, warm: float = 0.0) -> float:
        """Photos a second to expect of a setting: the most that its server, or else any, did so far."""
        same = [m.photos_per_s for m in self._measured.values() if m.setting.server == setting.server]
        return max([warm, *same]) or max((m.photos_per_s for m in self._measured.values()), default=0.0)

    # --- time --------------------------------------------------------------------------------

    def _cost(self, setting: Setting) -> float:
        """Seconds that a run in a closed loop takes, a restart included where it needs one."""
        restart = self._target.running != setting.server
        return self._pressed_s(setting) + self._over_s + (self._start_s if restart else 0.0)

    def _pressed_s(self, setting: Setting) -> float:
        guess = self._guess(setting)
        return closed(setting, guess, self._options.seconds).seconds if guess else self._options.seconds

    def _time_for(self, setting: Setting, *, runs: int = 1, reserve: float = 0.0) -> bool:
        wanted = self._cost(setting) + (runs - 1) * (self._pressed_s(setting) + self._over_s)
        return self._clock() + wanted + reserve <= self._end

    def _reserve_s(self) -> float:
        """For the finalists' rounds: at most half of the budget, so that the search has the other."""
        options = self._options
        run = 2 * (options.seconds + self._over_s) + self._start_s
        return min(options.budget_s / 2, options.rounds * options.finalists * run)
