"""The sweep: a search, interleaved rounds of the finalists, then their servers under other loads.

A failed trial is recorded and skipped. A recorded trial is never run again, unless its failure is to be
retried, so a sweep that was stopped continues where it was.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from clip_client.terminal import counted
from clip_profile import defaults
from clip_profile.answer.recommend import recommend
from clip_profile.console import Console, duration
from clip_profile.errors import ServerGone
from clip_profile.records.measurement import Phase, Round, Trial
from clip_profile.records.objective import Objective
from clip_profile.records.results import results_of
from clip_profile.records.run_folder import RunFolder
from clip_profile.records.setting import Setting
from clip_profile.sweep.search import Search
from clip_profile.sweep.target import Target
from clip_profile.sweep.trials import Measurer, Trials


@dataclass(frozen=True)
class SweepOptions:
    """`start` is the point of the run's space that the search begins with."""

    start: Setting
    budget_s: float
    objective: Objective = field(default_factory=Objective)
    finalists: int = defaults.SWEEP_FINALISTS
    rounds: int = defaults.SWEEP_ROUNDS
    exhaustive: bool = False
    retry_failed: bool = False


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
        self._run, self._options, self._console = run, options, console
        self._trials = Trials(
            run, target, measurer, options.budget_s, console, retry_failed=options.retry_failed, clock=clock
        )
        self._search = Search(run.about.space, options.start, cost=self._trials.cost_s)
        for trial in run.records:
            if trial.phase == "search" and self._trials.is_known(trial):
                self._add_to_search(trial.setting)

    def run(self) -> bool:
        """Whether there is something to recommend, and the server lived to the end.

        Raises ProfileError if nothing was measured and the running server died.
        """
        try:
            return self._run_all()
        except ServerGone as error:
            if not self._run.measurements:
                raise
            self._console.line(str(error))
            return False

    def _run_all(self) -> bool:
        complete = self._retry_failures() and self._find_finalists()
        finalists = self._search.best(self._options.finalists)
        if not finalists:
            last = self._run.failures[-1].text if self._run.failures else "the budget was too short"
            self._console.line(f"no setting could be measured; last error: {last}")
            return False
        complete &= self._rounds(finalists) and self._load_curves(finalists) and self._confirm_best()
        left = f"{duration(self._trials.left_s)} of the budget left"
        rest = left if complete else "the budget ran out: run the same command to continue"
        measured = counted(len(self._run.measurements), "measurement")
        failed = counted(len(self._run.failures), "failure")
        self._console.line(f"done: {measured}, {failed}; {rest}")
        return True

    # --- the phases, in the order of docs/explanation/profiling.md; each returns whether it had time ----

    def _retry_failures(self) -> bool:
        for trial in list(self._trials.to_retry):
            if not self._trials.fits(trial.setting, repeat=trial.round is not None):
                return False
            if trial.round is not None:
                self._trials.repeat(trial.setting, trial.round, "retry")
            else:
                self._single(trial.setting, trial.phase)
        return True

    def _find_finalists(self) -> bool:
        """Starts or continues the search. What another phase measured already costs it nothing."""
        for setting in self._all_points() if self._options.exhaustive else self._proposals():
            known = self._trials.is_known(_single(setting))
            if not known and not self._trials.fits(setting, reserve_s=self._reserve_s()):
                self._console.line("search stopped: the time left is reserved for the finalists")
                return False
            self._single(setting, "search")
        return True

    def _rounds(self, settings: Sequence[Setting]) -> bool:
        """Each round starts with another setting, so that none gets the machine's better minutes."""
        group = self._run.group_of(settings)
        for number in range(1, self._options.rounds + 1):
            turn = number % len(settings)
            for setting in [*settings[turn:], *settings[:turn]]:
                if self._trials.is_repeated(setting, round := Round(group, number)):
                    continue
                if not self._trials.fits(setting, repeat=True):
                    return False
                self._trials.repeat(setting, round, f"round {number} of {self._options.rounds}")
        return True

    def _load_curves(self, finalists: Sequence[Setting]) -> bool:
        """The finalists' servers under the other loads: throughput against latency."""
        for server in dict.fromkeys(setting.server for setting in finalists):
            for setting in (point for point in self._search.points if point.server == server):
                if self._trials.is_known(_single(setting)):
                    continue
                if not self._trials.fits(setting):
                    return False
                self._single(setting, "load curve")
        return True

    def _confirm_best(self) -> bool:
        """Repeats a setting that is the best by a single run, beside the best of those in rounds."""
        before: list[Setting] = []
        while (pair := self._unconfirmed()) and pair != before:
            if not self._rounds(pair):
                return False
            before = pair
        return True

    # --- what is next --------------------------------------------------------------------------------------

    def _proposals(self) -> Iterator[Setting]:
        while (setting := self._search.next()) is not None:
            yield setting

    def _all_points(self) -> list[Setting]:
        """Server by server in a random order, so that no axis coincides with the machine's drift."""
        points = random.Random(0).sample(self._search.points, len(self._search.points))
        servers = list(dict.fromkeys(point.server for point in points))
        return sorted(points, key=lambda point: servers.index(point.server))

    def _unconfirmed(self) -> list[Setting] | None:
        objective = self._options.objective
        best = recommend(self._run, objective).best
        if best is None or best.in_rounds >= min(2, self._options.rounds):
            return None
        rated = [one for one in results_of(self._run) if one.in_rounds and not one.breaks]
        met = [one.setting for one in rated if objective.met(one)]
        return list(dict.fromkeys([best.setting, *met[:1]]))

    def _single(self, setting: Setting, phase: Phase) -> None:
        self._trials.single(setting, phase)
        self._add_to_search(setting)

    def _add_to_search(self, setting: Setting) -> None:
        one = self._trials.measurement(_single(setting))
        self._search.add(setting, self._options.objective.value(one) if one else None)

    def _reserve_s(self) -> float:
        n, rounds = self._options.finalists, self._options.rounds
        return self._trials.reserve_s(self._search.best(n), n, rounds)


def _single(setting: Setting) -> Trial:
    return Trial(setting, None, "closed")
