"""The sweep's decisions, on a made-up service and a made-up clock."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from clip_profile.console import Console
from clip_profile.errors import ProfileError
from clip_profile.load.perf_analyzer import Load
from clip_profile.load.server import Server
from clip_profile.records.measurement import Failure, Measurement, Round, Trial
from clip_profile.records.objective import Objective
from clip_profile.records.run_folder import RunFolder
from clip_profile.records.setting import Setting, Space
from clip_profile.sweep.sweep import Sweep, SweepOptions
from clip_profile.sweep.target import Served
from clip_serving.errors import ServerError
from tests.unit.profile.records import about
from tests.unit.profile.service import Service

SPACE = Space(preprocess_instances=(1, 2, 4), encoder_threads=(1, 2), concurrency=(2, 8, 16), encoder_cores=2)


@contextmanager
def swept(
    folder: Path, service: Service, *, budget_s: float = 1e6, said: io.StringIO | None = None, **options: Any
) -> Iterator[Sweep]:
    with RunFolder.create_or_resume(folder, about(space=SPACE, seconds=3.0)) as run:
        points = SPACE.points()
        wanted = SweepOptions(points[len(points) // 2], budget_s, **options)
        console = Console(said or io.StringIO())
        yield Sweep(run, service, service.measure, wanted, console, clock=lambda: service.now)


def test_it_searches_repeats_and_increases_the_load(tmp_path: Path) -> None:
    service = Service()
    with swept(tmp_path / "run", service) as sweep:
        assert sweep.run()
    search = {setting for setting, number, _ in service.runs if number is None}
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
    rounds = [
        [s for number, s in closed if number == wanted] for wanted in dict.fromkeys(n for n, _ in closed)
    ]
    assert len(rounds) == 3
    assert [len(set(one)) for one in rounds] == [3, 3, 3]
    assert len({one[0] for one in rounds}) == 3, "each round begins with another"
    seeds = set.union(*service.seeds.values())
    assert len(seeds) == len(service.seeds) == 3, "one for all of a round, another one in each"


@pytest.mark.parametrize(("times", "budget_s", "rounds"), [(1, 400, 3), (20, 1600, 2)])
def test_the_budget_is_kept_and_leaves_time_for_the_finalists(
    tmp_path: Path, times: float, budget_s: float, rounds: int
) -> None:
    """Of a slow server a run takes as long as its requests need to come round, and an open loop longer."""
    service = Service(times=times)
    with swept(tmp_path / "run", service, budget_s=budget_s) as sweep:
        sweep.run()
    assert service.now <= budget_s
    repeats = Counter(round for _, round, _ in service.runs if round)
    assert {round.number for round, runs in repeats.items() if runs == 6} >= set(range(1, rounds + 1))


def test_a_budget_that_is_too_short_measures_nothing_and_is_reported(tmp_path: Path) -> None:
    with swept(tmp_path / "run", Service(), budget_s=1) as sweep:
        assert not sweep.run()


def test_an_interrupted_sweep_continues(tmp_path: Path) -> None:
    service = Service()
    runs = 0

    class Stop(BaseException):
        pass

    measure = service.measure

    def stopping(server: Server, trial: Trial, load: Load) -> Measurement:
        nonlocal runs
        runs += 1
        if runs == 12:
            raise Stop
        return measure(server, trial, load)

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


def test_a_server_that_dies_is_recorded_and_the_sweep_continues(tmp_path: Path) -> None:
    service = Service(fails=lambda setting: setting.encoder_instances == 2)
    with swept(tmp_path / "run", service) as sweep:
        assert sweep.run()
    run = RunFolder.load(tmp_path / "run")
    assert {failure.setting.encoder_instances for failure in run.failures} == {2}
    assert {(one.text, one.died) for one in run.failures} == {("tritonserver died: out of memory", True)}
    assert {one.setting.encoder_instances for one in run.measurements} == {1}


def test_if_nothing_works_the_sweep_reports_it(tmp_path: Path) -> None:
    with swept(tmp_path / "run", Service(fails=lambda _: True)) as sweep:
        assert not sweep.run()
    assert len(RunFolder.load(tmp_path / "run").failures) == len(SPACE.points())


def test_losing_the_running_server_ends_the_sweep(tmp_path: Path) -> None:
    service = Service(fails=lambda setting: setting.concurrency == 2)
    service.restarts = False
    said = io.StringIO()
    with swept(tmp_path / "run", service, said=said) as sweep:
        assert not sweep.run()
    assert "tritonserver died: out of memory. The measurements so far are kept" in said.getvalue()
    run = RunFolder.load(tmp_path / "run")
    assert run.measurements
    assert not run.failures, "it says nothing about the setting"


def test_losing_the_running_server_before_any_measurement_is_an_error(tmp_path: Path) -> None:
    service = Service(fails=lambda _: True)
    service.restarts = False
    with swept(tmp_path / "run", service) as sweep, pytest.raises(ProfileError, match="died"):
        sweep.run()


def test_failed_settings_are_measured_again_on_request(tmp_path: Path) -> None:
    service = Service(fails=lambda setting: setting.encoder_instances == 2)
    with swept(tmp_path / "run", service) as sweep:
        sweep.run()
    failed = [one.setting for one in RunFolder.load(tmp_path / "run").failures if one.round is None]
    service.fails = lambda _: False
    total = len(service.runs)
    with swept(tmp_path / "run", service) as sweep:
        sweep.run()
    assert len(service.runs) == total
    with swept(tmp_path / "run", service, retry_failed=True) as sweep:
        sweep.run()
    run = RunFolder.load(tmp_path / "run")
    assert not run.failures
    assert set(failed) <= {one.setting for one in run.measurements}


def test_settings_that_failed_in_a_round_are_measured_again_too(tmp_path: Path) -> None:
    service = Service()
    with swept(tmp_path / "run", service) as sweep:
        sweep.run()
    (other,) = sorted(set(SPACE.points()) - {one for one, number, _ in service.runs if number}, key=str)[:1]
    with RunFolder.create_or_resume(tmp_path / "run", about(space=SPACE, seconds=3.0)) as run:
        run.add(Failure(other, Round("b", 1), "closed", 0.0, "out of memory", died=True))
    with swept(tmp_path / "run", service, retry_failed=True) as sweep:
        sweep.run()
    assert {(other, Round("b", 1), "closed"), (other, Round("b", 1), "poisson")} <= set(service.runs)
    assert not RunFolder.load(tmp_path / "run").failures


def test_another_objective_continues_the_search_with_its_own_finalists(tmp_path: Path) -> None:
    service = Service()
    with swept(tmp_path / "run", service) as sweep:
        sweep.run()
    before = len(service.runs)
    bound = Objective(p95_ms=300)
    with swept(tmp_path / "run", service, objective=bound) as sweep:
        sweep.run()
    repeated = {setting: number for setting, number, _ in service.runs[before:] if number}
    within = [p for p in SPACE.points() if 1200 * p.concurrency / service.truth(p) <= 300]
    assert max(service.truth(p) for p in repeated if p in within) >= 0.95 * max(map(service.truth, within))
    earlier = {number for _, number, _ in service.runs[:before] if number}
    assert earlier.isdisjoint(repeated.values()), "they ran at another time"
    totals = []
    for objective in (Objective(), bound, Objective(), bound):
        with swept(tmp_path / "run", service, objective=objective) as sweep:
            sweep.run()
        totals.append(len(service.runs))
    assert totals[-1] == totals[-3], "both are done, with what the other one measured"


def test_exhaustive_after_a_search_runs_the_rest(tmp_path: Path) -> None:
    service = Service()
    with swept(tmp_path / "run", service) as sweep:
        sweep.run()
    with swept(tmp_path / "run", service, exhaustive=True) as sweep:
        sweep.run()
    searched = Counter(s for s, number, _ in service.runs if not number)
    assert searched == dict.fromkeys(SPACE.points(), 1)
    total = len(service.runs)
    with swept(tmp_path / "run", service) as sweep:
        sweep.run()
    assert len(service.runs) == total, "the best of all are the best without searching"


def test_a_search_that_ran_out_of_time_continues_after_its_rounds(tmp_path: Path) -> None:
    service = Service()
    with swept(tmp_path / "run", service, budget_s=250) as sweep:
        sweep.run()
    before = {s for s, number, _ in service.runs if not number}
    said = io.StringIO()
    with swept(tmp_path / "run", service, said=said) as sweep:
        sweep.run()
    assert {s for s, number, _ in service.runs if not number} > before
    assert max(Counter(service.runs).values()) == 1
    assert "search:" in said.getvalue()


def test_the_best_by_a_single_run_is_repeated_beside_the_best_of_the_rounds(tmp_path: Path) -> None:
    """A load curve shows more than the search did."""
    service = Service()
    with swept(tmp_path / "run", service, finalists=1) as sweep:
        sweep.run()
    (champion,) = {setting for setting, round, _ in service.runs if round}
    curve = [one for one in RunFolder.load(tmp_path / "run").measurements if one.phase == "load curve"]
    lucky, service = curve[0].setting, Service()
    service.boosted = lucky
    with swept(tmp_path / "boosted", service, finalists=1) as sweep:
        sweep.run()
    rounds = {at: {r for s, r, _ in service.runs if r and s == at} for at in (champion, lucky)}
    assert len(rounds[lucky]) == 3
    assert len(rounds[champion]) == 6
    assert rounds[lucky] < rounds[champion]
    assert {setting for setting, round, _ in service.runs if round} == {champion, lucky}


def test_more_finalists_have_rounds_of_their_own(tmp_path: Path) -> None:
    service = Service()
    with swept(tmp_path / "run", service) as sweep:
        sweep.run()
    before = len(service.runs)
    with swept(tmp_path / "run", service, finalists=5) as sweep:
        sweep.run()
    earlier = {round.group for _, round, _ in service.runs[:before] if round}
    new = Counter(round for _, round, arrival in service.runs[before:] if round and arrival == "closed")
    assert list(new.values()) == [5, 5, 5]
    assert earlier.isdisjoint(round.group for round in new)
    total = len(service.runs)
    with swept(tmp_path / "run", service, finalists=2) as sweep:
        sweep.run()
    assert len(service.runs) == total


def test_one_round_is_enough(tmp_path: Path) -> None:
    service = Service()
    with swept(tmp_path / "run", service, rounds=1) as sweep:
        assert sweep.run()


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
