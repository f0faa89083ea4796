"""Stands in for a server and for perf_analyzer: throughput from a known surface, time from a count."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from clip_profile.errors import ProfileError
from clip_profile.load.perf_analyzer import Load
from clip_profile.load.server import Server
from clip_profile.records.identity import Identity
from clip_profile.records.measurement import Measurement, Round, Trial
from clip_profile.records.setting import Setting
from clip_profile.sweep.target import Served
from testing.surfaces import noisy, surface
from tests.unit.profile.records import measurement


class Service:
    """A start takes 8 seconds, a run 3 seconds more than its load.

    Like the real one, it starts again after a death. It is `times` slower than its surface.
    """

    name, restarts = "embedded", True
    identity = Identity("made up", "", "", "1", 150_528)

    def __init__(self, fails: Callable[[Setting], bool] = lambda _: False, *, times: float = 1.0) -> None:
        self.now = 0.0
        triton: Any = None
        self.server = Server("embedded", "here", triton, self.explain_death, True)
        self.running: Setting | None = None
        self.runs: list[tuple[Setting, Round | None, str]] = []
        self.seeds: dict[Round | None, set[int]] = {}
        self.starts = 0
        self.dead = False
        self.boosted: Setting | None = None
        self.fails = fails
        self._times = times
        self._truth = surface(np.random.default_rng(0), 2)
        self._random = np.random.default_rng(1)

    def truth(self, setting: Setting) -> float:
        return self._truth(setting) / self._times * (5 if setting == self.boosted else 1)

    def serve(self, setting: Setting) -> Served:
        if self.running != setting.server or self.dead:
            self.now += 8
            self.starts += 1
            self.running, self.dead = setting.server, False
        return Served(self.server, self.truth(setting))

    def explain_death(self) -> str | None:
        if not self.dead:
            return None
        self.running = None
        return "tritonserver died: out of memory"

    def measure(self, server: Server, trial: Trial, load: Load) -> Measurement:
        assert server is self.server
        setting, round = trial.setting, trial.round
        self.now += load.seconds + 3
        if self.fails(setting):
            self.dead = True
            raise ProfileError("perf_analyzer: connection refused")
        self.runs.append((setting, round, load.arrival))
        if load.arrival == "poisson":
            self.seeds.setdefault(round, set()).add(load.seed)
        photos_per_s = noisy(self.truth(setting), 0.02, self._random)
        p95_ms = 1200 * setting.concurrency / photos_per_s
        one = measurement(setting, photos_per_s=photos_per_s, p95_ms=p95_ms, arrival=load.arrival)
        return dataclasses.replace(one, round=round, phase=trial.phase)

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *_: object) -> None: ...
