"""Runs the trials of a sweep: each at most once, and recorded before the next one starts."""

from __future__ import annotations

import dataclasses
import time
import zlib
from collections.abc import Callable, Sequence

from clip_profile.console import Console, duration
from clip_profile.errors import ProfileError, ServerGone
from clip_profile.load.perf_analyzer import Load
from clip_profile.load.server import Server
from clip_profile.records.measurement import Failure, Measurement, Phase, Round, Trial
from clip_profile.records.run_folder import RunFolder
from clip_profile.records.setting import Setting
from clip_profile.sweep.target import Served, Target
from clip_serving.errors import ClipServingError

Measurer = Callable[[Server, Trial, Load], Measurement]
"""Runs a load on a server that serves the trial's setting. Raises ProfileError or ClipServingError."""

_TURNS = 4.0
"""How often each request in flight is answered, at least, during a measurement."""
_ARRIVALS = 30
"""Requests of an open loop, at least."""


class Trials:
    """The trials of a run folder, and the budget for them. With `retry_failed` its failures are unknown."""

    def __init__(
        self,
        run: RunFolder,
        target: Target,
        measurer: Measurer,
        budget_s: float,
        console: Console,
        *,
        retry_failed: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run, self._target, self._measurer = run, target, measurer
        self._console, self._clock = console, clock
        self._budget_s, self._end = budget_s, clock() + budget_s
        self.start_s, self.overhead_s = 10.0, 3.0
        """Seconds of the last server start, and of the last run beyond its windows; guesses at first."""
        self.to_retry = [one.trial for one in run.failures] if retry_failed else []
        self._rates: dict[Setting, float] = {}
        for one in run.measurements:
            self._note_rate(one)

    def is_known(self, trial: Trial) -> bool:
        return trial in self._run.records and trial not in self.to_retry

    def measurement(self, trial: Trial) -> Measurement | None:
        """None if the trial failed or is not known."""
        record = self._run.records.get(trial) if self.is_known(trial) else None
        return record if isinstance(record, Measurement) else None

    def single(self, setting: Setting, phase: Phase) -> Measurement | None:
        """The setting in a closed loop, once; None if it failed."""
        trial = Trial(setting, None, "closed", phase=phase)
        known = self._run.records.get(trial)
        if known and phase == "search" != known.phase and self.is_known(trial):
            self._run.add(dataclasses.replace(known, phase=phase))  # so that a resumed search knows it, too
        return self._closed(trial, phase)

    def repeat(self, setting: Setting, round: Round, part: str) -> None:
        """The setting in a round: in a closed loop, then with Poisson arrivals at a share of its throughput.

        All settings of a round get the same arrivals.
        """
        one = self._closed(Trial(setting, round, "closed", phase="rounds"), part)
        if one is not None:
            seed = zlib.crc32(f"{round.group} {round.number}".encode())
            load = self._poisson_load(setting, one.photos_per_s, seed)
            open_loop = Trial(setting, round, "poisson", phase="rounds")
            self._once(open_loop, f"{part}, Poisson arrivals", lambda _: load)

    def is_repeated(self, setting: Setting, round: Round) -> bool:
        closed = Trial(setting, round, "closed")
        failed = self.is_known(closed) and self.measurement(closed) is None
        return failed or self.is_known(Trial(setting, round, "poisson"))

    # --- the budget, in seconds ----------------------------------------------------------------------------

    @property
    def left_s(self) -> float:
        return self._end - self._clock()

    def fits(self, setting: Setting, *, repeat: bool = False, reserve_s: float = 0.0) -> bool:
        """Whether a single run, or the setting's part of a round, fits into the time left."""
        return self.cost_s(setting, repeat=repeat) + reserve_s <= self.left_s

    def cost_s(self, setting: Setting, *, repeat: bool = False) -> float:
        """With the start of the server, unless it is running."""
        starts_s = 0.0 if self._target.running == setting.server else self.start_s
        return starts_s + (
            self._repeat_s(setting) if repeat else self._windows_s(setting)[0] + self.overhead_s
        )

    def reserve_s(self, best: Sequence[Setting], finalists: int, rounds: int) -> float:
        """For the rounds after the search, if the finalists are like the best so far.

        At most half of the budget: the search gets the other half.
        """
        unknown_s = 2 * (self._run.about.seconds + self.overhead_s)
        each_s = [self._repeat_s(setting) for setting in best] or [unknown_s]
        return min(self._budget_s / 2, rounds * finalists * (sum(each_s) / len(each_s) + self.start_s))

    def _repeat_s(self, setting: Setting) -> float:
        return sum(self._windows_s(setting)) + 2 * self.overhead_s

    def _windows_s(self, setting: Setting) -> tuple[float, float]:
        """Of a closed and of an open loop, at the throughput that is expected of the setting."""
        rate, seconds = self._rate(setting), self._run.about.seconds
        if not rate:
            return seconds, seconds
        return self._closed_load(setting, rate).seconds, self._poisson_load(setting, rate, 0).seconds

    # --- one trial -----------------------------------------------------------------------------------------

    def _closed(self, trial: Trial, part: str) -> Measurement | None:
        def load(served: Served) -> Load:
            return self._closed_load(trial.setting, self._rate(trial.setting, served.photos_per_s))

        return self._once(trial, part, load)

    def _closed_load(self, setting: Setting, photos_per_s: float) -> Load:
        turns_s = _TURNS * setting.concurrency * setting.request_batch / max(photos_per_s, 0.1)
        seconds = max(self._run.about.seconds, turns_s)
        return Load("closed", seconds, setting.request_batch, concurrency=setting.concurrency)

    def _poisson_load(self, setting: Setting, photos_per_s: float, seed: int) -> Load:
        rate = self._run.about.share * photos_per_s / setting.request_batch
        seconds = max(self._run.about.seconds, _ARRIVALS / rate)
        return Load("poisson", seconds, setting.request_batch, rate=rate, seed=seed)

    def _once(self, trial: Trial, part: str, load: Callable[[Served], Load]) -> Measurement | None:
        if self.is_known(trial):
            return self.measurement(trial)
        name = f"{part}: {trial.setting.describe()}"
        self._console.doing(f"{name} ... {duration(self.left_s)} left")
        record = self._run_trial(trial, load)
        self._run.add(record)
        if trial in self.to_retry:
            self.to_retry.remove(trial)
        if isinstance(record, Measurement):
            self._note_rate(record)
        self._console.line(f"{name}: {_outcome(record)}; {duration(self.left_s)} left")
        return self.measurement(trial)

    def _run_trial(self, trial: Trial, load: Callable[[Served], Load]) -> Measurement | Failure:
        """Starts a server if it must. Raises ServerGone if a server died that is not ours to restart."""
        begin = self._clock()
        try:
            restart = self._target.running != trial.setting.server
            served = self._target.serve(trial.setting)
            ready = self._clock()
            if restart:
                self.start_s = ready - begin
            wanted = load(served)
            one = self._measurer(served.server, trial, wanted)
        except (ProfileError, ClipServingError) as error:
            # A crash explains more than perf_analyzer's complaint about it.
            death = self._target.explain_death() if self._target.running else None
            if death and not self._target.restarts:
                raise ServerGone(
                    f"{death}. The measurements so far are kept; run the same command to continue"
                ) from error
            failure = death or str(error)
            died, at = death is not None, time.time()
            return Failure(trial.setting, trial.round, trial.arrival, at, failure, died, phase=trial.phase)
        self.overhead_s = self._clock() - ready - wanted.seconds
        return one

    def _note_rate(self, one: Measurement) -> None:
        server = one.setting.server
        self._rates[server] = max(one.photos_per_s, self._rates.get(server, 0.0))

    def _rate(self, setting: Setting, warm: float = 0.0) -> float:
        """Expected photos per second: the maximum so far of its server, or else of any server; 0 if unknown.

        `warm` is the rate while its server was warmed up.
        """
        same = max(warm, self._rates.get(setting.server, 0.0))
        return same or max(self._rates.values(), default=0.0)


def _outcome(record: Measurement | Failure) -> str:
    if isinstance(record, Failure):
        return f"FAILED: {record.text.splitlines()[0]}"
    offered = f" at {record.rate:.1f} requests/s" if record.rate else ""
    return f"{record.photos_per_s:.1f} photos/s, p95 {record.p95_ms:.0f} ms{offered}"
