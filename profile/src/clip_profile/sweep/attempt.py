"""One try to serve a setting and to measure it: it comes out as a measurement, or as why there is none."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from clip_profile.errors import ProfileError, ServerGone
from clip_profile.load.perf_analyzer import Load
from clip_profile.records.measurement import Failure, Measurement
from clip_profile.records.run_folder import Key
from clip_profile.records.setting import Setting
from clip_profile.sweep.target import Served, Target
from clip_serving.errors import ClipServingError

Measurer = Callable[[Served, Setting, Load, int], Measurement]
"""Presses a server that serves a setting with a load, in a round; raises ClipServingError."""


@dataclass(frozen=True)
class Attempt:
    """`start_s` is what a start of the server took, `over_s` the run beyond its windows; None without."""

    outcome: Measurement | Failure
    start_s: float | None = None
    over_s: float | None = None


def attempt(
    target: Target,
    measurer: Measurer,
    key: Key,
    load: Callable[[Served], Load],
    clock: Callable[[], float] = time.monotonic,
) -> Attempt:
    """Serves the setting, starting a server where it must, and presses it with the load that fits it.

    Raises ServerGone for somebody's server that died: that says nothing about the setting.
    """
    setting, number, arrival = key
    begin, start_s = clock(), None
    try:
        restart = target.running != setting.server
        served = target.serve(setting)
        ready = clock()
        start_s = ready - begin if restart else None
        wanted = load(served)
        one = measurer(served, setting, wanted, number)
    except (ProfileError, ClipServingError) as error:
        # A death explains more than what perf_analyzer made of it.
        death = target.explain_death() if target.running else None
        if death and not target.restarts:
            raise ServerGone(f"{death}. What was measured is kept; the same command goes on") from error
        text = death or str(error)
        failure = Failure(setting, number, arrival, time.time(), text, died=death is not None)
        return Attempt(failure, start_s)
    return Attempt(one, start_s, clock() - ready - wanted.seconds)
