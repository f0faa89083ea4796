"""The sweep: search, then interleaved rounds of the finalists, then their loads, within the budget.

Whatever fails is recorded and passed over. Whatever is recorded is never measured again, unless its
failure is to be tried again.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from clip_profile.answer.recommend import recommend
from clip_profile.console import Console, duration
from clip_profile.errors import ServerGone
from clip_profile.load.perf_analyzer import Load
from clip_profile.records.measurement import Failure, Measurement
from clip_profile.records.objective import Objective
from clip_profile.records.results import results_of
from clip_profile.records.run_folder import Choice, Key, RunFolder
from clip_profile.records.setting import Setting
from clip_profile.sweep.attempt import Measurer, attempt
from clip_profile.sweep.budget import Budget
from clip_profile.sweep.ledger import Ledger
from clip_profile.sweep.measure import closed, poisson
from clip_profile.sweep.search import Search
from clip_profile.sweep.target import Served, Target

_BLOCK = 100
"""Rounds of what runs together have their own hundred of numbers: what ran at another time shares none."""


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
    retry_failed: bool = False
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
        self._budget = Budget(options.budget_s, clock)
        self._ledger = Ledger(run, retry_failed=options.retry_failed)
        points = run.about.space.points()
        start = options.start if options.start in points else points[len(points) // 2]
        self._search = Search(run.about.space, start or points[0], cost=self._closed_cost)
        for setting, one in self._ledger.searched().items():
            self._search.add(setting, options.objective.value(one) if one else None)

    def run(self) -> bool:
        """Whether there is something to recommend from, and the server lived to the end.

        Raises ProfileError where nothing was measured and somebody's server has died.
        """
        try:
            return self._run_all()
        except ServerGone as error:
            if not self._run.measurements:
                raise
            self._console.line(str(error))
            return False

    def _run_all(self) -> bool:
        n = self._options.finalists
        self._retry_rounds()
        before = self._run.choice(self._options.objective, exhaustive=self._options.exhaustive)
        if before is not None:  # its rounds, as far as they were cut off
            self._rounds(before.settings[:n], before.first_round)
        choice = before if before is not None and self._stands(before) else self._find()
        finalists = choice.settings[:n]
        if not finalists:
            last = self._run.failures[-1].text if self._run.failures else "the budget was too short"
            self._console.line(f"not one setting could be measured; the last one: {last}")
            return False
        whole = self._rounds(finalists, choice.first_round) and self._frontier(finalists) and self._play_off()
        left = f"{duration(self._budget.left_s)} of the budget were not needed"
        rest = (
            left
            if whole and choice.whole
            else "the budget is too short for the rest: the same command goes on"
        )
        counts = f"{len(self._run.measurements)} runs, {len(self._run.failures)} failed"
        self._console.line(f"done: {counts}; {rest}")
        return True

    def _stands(self, choice: Choice) -> bool:
        """Whether more searching would not be of use for it."""
        enough = len(choice.settings) >= self._options.finalists
        return choice.whole and enough and not self._ledger.to_retry()

    # --- the parts, as docs/profile.md tells them --------------------------------------------

    def _find(self) -> Choice:
        """Searches, or goes on with it, and chooses the finalists."""
        whole = True
        for setting in self._proposals():
            if not self._budget.fits(self._closed_cost(setting), self._reserve_s()):
                self._console.line("the time that is left belongs to the finalists")
                whole = False
                break
            self._closed(setting, 0, "search")
        finalists = tuple(self._search.best(self._options.finalists))
        first = self._run.first_round(finalists) or self._next_block()
        choice = Choice(self._options.objective, self._options.exhaustive, whole, finalists, first)
        if finalists:
            self._run.add(choice)
        return choice

    def _rounds(self, settings: Sequence[Setting], first: int) -> bool:
        """Round by round, each in another order: nobody gets the machine's better minutes.

        Whether there was time for all of it.
        """
        for number in range(first, first + self._options.rounds):
            turn = number % len(settings)
            part = f"round {number - first + 1} of {self._options.rounds}"
            for setting in [*settings[turn:], *settings[:turn]]:
                if self._round_is_known(setting, number):
                    continue
                if not self._budget.fits(self._round_cost(setting)):
                    return False
                one = self._closed(setting, number, part)
                if one is not None:
                    self._poisson(setting, number, f"{part}, Poisson arrivals", one.photos_per_s)
        return True

    def _retry_rounds(self) -> None:
        """Runs that failed in rounds of whatever was a finalist then."""
        for setting, number in self._ledger.rounds_to_retry():
            if not self._budget.fits(self._round_cost(setting)):
                return
            one = self._closed(setting, number, "again")
            if one is not None:
                self._poisson(setting, number, "again, Poisson arrivals", one.photos_per_s)

    def _frontier(self, finalists: Sequence[Setting]) -> bool:
        """The finalists' servers under the other loads: the frontier of throughput against latency.

        Whether there was time for all of it.
        """
        for server in dict.fromkeys(setting.server for setting in finalists):
            for setting in (point for point in self._search.points if point.server == server):
                if (setting, 0, "closed") in self._ledger:
                    continue
                if not self._budget.fits(self._closed_cost(setting)):
                    return False
                self._closed(setting, 0, "frontier")
        return True

    def _play_off(self) -> bool:
        """Rounds of what would be recommended by a single run, beside the best that was in rounds.

        Whether there was time for all of it.
        """
        while (pair := self._challenge()) is not None:
            if not self._rounds(pair, self._next_block()):
                return False
        return True

    # --- what is next ------------------------------------------------------------------------

    def _proposals(self) -> Iterator[Setting]:
        yield from self._ledger.to_retry()
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
                if (point, 0, "closed") not in self._ledger:
                    yield point

    def _challenge(self) -> list[Setting] | None:
        objective = self._options.objective
        found = recommend(self._run, objective)
        best = found.best if found else None
        if best is None or best.in_rounds >= min(2, self._options.rounds):
            return None
        rated = [one for one in results_of(self._run) if one.in_rounds and not one.breaks]
        met = [one.setting for one in rated if objective.met(one.photos_per_s, one.p95_ms)]
        return list(dict.fromkeys([best.setting, *met[:1]]))

    def _next_block(self) -> int:
        return -(-self._ledger.last_round() // _BLOCK) * _BLOCK + 1

    def _round_is_known(self, setting: Setting, number: int) -> bool:
        if (setting, number, "closed") not in self._ledger:
            return False
        failed = self._ledger.measurement((setting, number, "closed")) is None
        return failed or (setting, number, "poisson") in self._ledger

    # --- one run -----------------------------------------------------------------------------

    def _closed(self, setting: Setting, number: int, part: str) -> Measurement | None:
        def load(served: Served) -> Load:
            rate = self._ledger.rate(setting, served.photos_per_s)
            return closed(setting, rate, self._options.seconds)

        return self._once((setting, number, "closed"), part, load)

    def _poisson(self, setting: Setting, number: int, part: str, photos_per_s: float) -> None:
        def load(served: Served) -> Load:
            del served
            return poisson(setting, photos_per_s, self._options.share, self._options.seconds, seed=number)

        self._once((setting, number, "poisson"), part, load)

    def _once(self, key: Key, part: str, load: Callable[[Served], Load]) -> Measurement | None:
        """What is known of the key, or else a run of it, recorded and told."""
        if key in self._ledger:
            return self._ledger.measurement(key)
        name = f"{part}: {key[0].label}"
        self._console.doing(f"{name} ... {duration(self._budget.left_s)} left")
        tried = attempt(self._target, self._measurer, key, load, self._clock)
        self._budget.learn(start_s=tried.start_s, over_s=tried.over_s)
        self._ledger.add(tried.outcome)
        one = self._ledger.measurement(key)
        if key[1:] == (0, "closed"):
            self._search.add(key[0], self._options.objective.value(one) if one else None)
        self._console.line(f"{name}: {_told(tried.outcome)}; {duration(self._budget.left_s)} left")
        return one

    # --- seconds -----------------------------------------------------------------------------

    def _closed_cost(self, setting: Setting) -> float:
        return self._budget.cost(self._windows_s(setting)[:1], self._starts(setting))

    def _round_cost(self, setting: Setting) -> float:
        return self._budget.cost(self._windows_s(setting), self._starts(setting))

    def _reserve_s(self) -> float:
        """For all rounds of as many finalists as are wanted, like those that are the best so far."""
        n, best = self._options.finalists, self._search.best(self._options.finalists)
        windows = [seconds for setting in best for seconds in self._windows_s(setting)]
        round_s = self._budget.cost(windows or [self._options.seconds] * 2, len(best) or 1)
        return self._budget.reserve(self._options.rounds * n * round_s / max(1, len(best)))

    def _windows_s(self, setting: Setting) -> list[float]:
        """Of a closed and of an open loop, at the rate that is expected of the setting."""
        rate, options = self._ledger.rate(setting), self._options
        if not rate:
            return [options.seconds] * 2
        loads = (
            closed(setting, rate, options.seconds),
            poisson(setting, rate, options.share, options.seconds, 0),
        )
        return [load.seconds for load in loads]

    def _starts(self, setting: Setting) -> int:
        return int(self._target.running != setting.server)


def _told(record: Measurement | Failure) -> str:
    if isinstance(record, Failure):
        return f"FAILED: {record.text.splitlines()[0]}"
    offered = f" at {record.rate:.1f} requests/s" if record.rate else ""
    return f"{record.photos_per_s:.1f} photos/s, p95 {record.p95_ms:.0f} ms{offered}"
