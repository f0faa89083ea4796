"""The sweep's decisions, on a made-up service and a made-up clock."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pytest

from clip_serving.errors import ProfileError, ServerError
from clip_serving.profile.console import Console
from clip_serving.profile.load import Load
from clip_serving.profile.measurement import Measurement
from clip_serving.profile.objective import Objective
from clip_serving.profile.run_folder import RunFolder
from clip_serving.profile.setting import Setting, Space
from clip_serving.profile.sweep import Sweep, SweepOptions
from clip_serving.profile.target import Served
from tests.unit.profile.records import about, measurement
from tests.unit.profile.surfaces import noisy, surface

SPACE = Space(preprocess_instances=(1, 2, 4), encoder_threads=(1, 2), concurrency=(2, 8, 16), encoder_cores=2)


class Service:
    """Stands for the server and for perf_analyzer: a start takes 8 seconds, a run 6."""

    name, model, restarts = "embedded", "made up", True

    def __init__(self, fails: Callable[[Setting], bool] = lambda _: False) -> None:
        self.now = 0.0
        self.running: Setting | None = None
        self.runs: list[tuple[Setting, int, str]] = []
        self.seeds: dict[int, set[int]] = {}
        self.starts = 0
        self.dead = False
        self._fails = fails
        self._truth = surface(np.random.default_rng(0), 2)
        self._random = np.random.default_rng(1)

    def truth(self, setting: Setting) -> float:
        return self._truth(setting)

    def serve(self, setting: Setting) -> Served:
        if self.running != setting.server or self.dead:
            self.now += 8
            self.starts += 1
            self.running, self.dead = setting.server, False
        return Served("here", None, self._truth(setting), {})

    def explain_death(self) -> str | None:
        if not self.dead:
            return None
        self.running = None
        return "tritonserver died: out of memory"

    def measure(self, served: Served, setting: Setting, load: Load, number: int) -> Measurement:
        del served
        self.now += 6
        if self._fails(setting):
            self.dead = True
            raise ProfileError("perf_analyzer: connection refused")
        self.runs.append((setting, number, load.arrival))
        if load.arrival == "poisson":
            self.seeds.setdefault(number, set()).add(load.seed)
        photos_per_s = noisy(self._truth(setting), 0.02, self._random)
        p95_ms = 1200 * setting.concurrency / photos_per_s
        return measurement(
            setting, photos_per_s=photos_per_s, p95_ms=p95_ms, round=number, arrival=load.arrival
        )

    def __enter__(self) -> Service:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@contextmanager
def swept(folder: Path, service: Service, *, budget_s: float = 1e6, **options: Any) -> Iterator[Sweep]:
    with RunFolder.create_or_resume(folder, about(space=SPACE)) as run:
        wanted = SweepOptions(budget_s=budget_s, seconds=3.0, **options)
        console = Console(io.StringIO())
        yield Sweep(run, service, service.measure, wanted, console, clock=lambda: service.now)


def test_it_finds_repeats_and_presses(tmp_path: Path) -> None:
    service = Service()
    with swept(tmp_path / "run", service) as sweep:
        assert sweep.run()
    search = {setting for setting, number, _ in service.runs if number == 0}
    repeats = Counter((setting, arrival) for setting, number, arrival in service.runs if number)
    assert set(repeats.values()) == {3}
    finalists = {setting for setting, _ in repeats}
    assert len(repeats) == 2 * len(finalists) == 6
    best = max(SPACE.points(), key=service.truth)
    assert max(map(service.truth, finalists)) >= 0.95 * service.truth(best)
    assert len(search) < len(SPACE.points())
    # The frontier: each of the finalists' servers under every load.
    for setting in finalists:
        assert {s.concurrency for s in search if s.server == setting.server} == {2, 8, 16}


def test_rounds_are_interleaved_and_share_their_arrivals(tmp_path: Path) -> None:
    service = Service()
    with swept(tmp_path / "run", service) as sweep:
        sweep.run()
    closed = [
        (number, setting) for setting, number, arrival in service.runs if number and arrival == "closed"
    ]
    rounds = [[s for number, s in closed if number == wanted] for wanted in (1, 2, 3)]
    assert [len(set(one)) for one in rounds] == [3, 3, 3]
    assert len({one[0] for one in rounds}) == 3, "each round begins with another"
    assert service.seeds == {1: {1}, 2: {2}, 3: {3}}


def test_the_budget_is_kept_and_leaves_time_for_the_finalists(tmp_path: Path) -> None:
    service = Service()
    with swept(tmp_path / "run", service, budget_s=400) as sweep:
        sweep.run()
    assert service.now <= 400
    assert {number for _, number, _ in service.runs} == {0, 1, 2, 3}


def test_a_budget_for_nothing_measures_nothing_and_says_so(tmp_path: Path) -> None:
    with swept(tmp_path / "run", Service(), budget_s=1) as sweep:
        assert not sweep.run()


def test_a_sweep_that_was_cut_off_goes_on(tmp_path: Path) -> None:
    service = Service()
    runs = 0

    class Stop(BaseException):
        pass

    measure = service.measure

    def stopping(served: Served, setting: Setting, load: Load, number: int) -> Measurement:
        nonlocal runs
        runs += 1
        if runs == 12:
            raise Stop
        return measure(served, setting, load, number)

    service.measure = stopping  # type: ignore[method-assign]
    with pytest.raises(Stop), swept(tmp_path / "run", service) as sweep:
        sweep.run()
    assert len(RunFolder.load(tmp_path / "run").measurements) == 11
    with swept(tmp_path / "run", service) as sweep:
        assert sweep.run()
    assert max(Counter(service.runs).values()) == 1, "nothing is measured twice"
    total = len(service.runs)
    with swept(tmp_path / "run", service) as sweep:
        assert sweep.run()
    assert len(service.runs) == total, "a sweep that is done has nothing left to do"


def test_a_server_that_dies_is_recorded_and_the_sweep_goes_on(tmp_path: Path) -> None:
    service = Service(fails=lambda setting: setting.encoder_instances == 2)
    with swept(tmp_path / "run", service) as sweep:
        assert sweep.run()
    run = RunFolder.load(tmp_path / "run")
    assert {failure.setting.encoder_instances for failure in run.failures} == {2}
    assert {failure.text for failure in run.failures} == {"tritonserver died: out of memory"}
    assert {one.setting.encoder_instances for one in run.measurements} == {1}


def test_where_nothing_works_it_says_so(tmp_path: Path) -> None:
    with swept(tmp_path / "run", Service(fails=lambda _: True)) as sweep:
        assert not sweep.run()
    assert len(RunFolder.load(tmp_path / "run").failures) == len(SPACE.points())


def test_a_running_server_that_is_gone_ends_the_sweep(tmp_path: Path) -> None:
    service = Service(fails=lambda setting: setting.concurrency == 2)
    service.restarts = False
    with (
        swept(tmp_path / "run", service) as sweep,
        pytest.raises(ProfileError, match=r"died.*What was measured is kept"),
    ):
        sweep.run()
    run = RunFolder.load(tmp_path / "run")
    assert run.measurements
    assert not run.failures, "it says nothing about the setting"


def test_a_setting_that_does_not_load_is_recorded(tmp_path: Path) -> None:
    service = Service()
    serve = service.serve

    def refusing(setting: Setting) -> Served:
        if setting.preprocess_instances == 4:
            service.running = None
            raise ServerError("The model clip_image_preprocess could not be loaded")
        return serve(setting)

    service.serve = refusing  # type: ignore[method-assign]
    with swept(tmp_path / "run", service) as sweep:
        assert sweep.run()
    run = RunFolder.load(tmp_path / "run")
    assert {failure.setting.preprocess_instances for failure in run.failures} == {4}


def test_an_exhaustive_sweep_runs_every_setting_once_and_starts_each_server_once(tmp_path: Path) -> None:
    service = Service()
    with swept(tmp_path / "run", service, exhaustive=True, rounds=0) as sweep:
        assert sweep.run()
    assert Counter(s for s, _, _ in service.runs) == dict.fromkeys(SPACE.points(), 1)
    assert service.starts == len({point.server for point in SPACE.points()})


def test_a_bound_on_the_latency_leads_elsewhere(tmp_path: Path) -> None:
    """With 16 in flight the made-up latency is above 500 ms wherever throughput is highest."""
    service = Service()
    with swept(tmp_path / "run", service, objective=Objective(p95_ms=500)) as sweep:
        sweep.run()
    finalists = {setting for setting, number, _ in service.runs if number}
    within = [s for s in finalists if 1200 * s.concurrency / service.truth(s) <= 500]
    best = max(service.truth(p) for p in SPACE.points() if 1200 * p.concurrency / service.truth(p) <= 500)
    assert max(map(service.truth, within)) >= 0.95 * best
