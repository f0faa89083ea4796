"""A trial becomes a measurement or a failure, and its costs are known; only a lost server ends the sweep."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest

from clip_profile.console import Console
from clip_profile.errors import ServerGone
from clip_profile.records.run_folder import RunFolder
from clip_profile.sweep.trials import Trials
from tests.unit.profile.records import BASE, about, setting
from tests.unit.profile.service import Service

OTHER = setting(concurrency=2)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunFolder]:
    with RunFolder.create_or_resume(tmp_path / "run", about()) as run:
        yield run


def trials_of(run: RunFolder, service: Service, budget_s: float = 1e6) -> Trials:
    console = Console(io.StringIO())
    return Trials(run, service, service.measure, budget_s, console, clock=lambda: service.now)


def test_the_cost_of_a_start_and_of_a_run_beyond_its_windows_is_learned(run: RunFolder) -> None:
    service = Service()
    trials = trials_of(run, service)
    trials.overhead_s = 1.0
    assert trials.cost_s(BASE) == 10 + 6 + 1, "guesses"
    assert trials.single(BASE, "search") is not None
    assert (trials.start_s, trials.overhead_s) == (8, 3)
    assert trials.cost_s(OTHER) == 6 + 3, "its server is running"
    trials.start_s = 0.0
    assert trials.single(OTHER, "search") is not None
    assert trials.start_s == 0, "a run without a start says nothing about one"
    assert trials.single(BASE, "search") is not None
    assert len(service.runs) == 2, "nothing is measured twice"


def test_what_fits_into_the_time_left(run: RunFolder) -> None:
    service = Service()
    trials = trials_of(run, service, budget_s=60)
    service.now += 41
    assert trials.left_s == 19
    assert trials.fits(BASE), "10 s for the start, 6 s of load and 3 s beyond"
    assert not trials.fits(BASE, reserve_s=1)
    assert not trials.fits(BASE, repeat=True)


def test_the_search_gets_at_least_half_of_the_budget(run: RunFolder) -> None:
    trials = trials_of(run, Service(), budget_s=600)
    assert trials.reserve_s([], finalists=3, rounds=1) == 3 * (2 * (6 + 3) + 10)
    assert trials.reserve_s([], finalists=3, rounds=3) == 3 * 3 * (2 * (6 + 3) + 10)
    assert trials.reserve_s([], finalists=30, rounds=3) == 300


def test_a_crash_explains_the_failure_and_the_next_trial_restarts_the_server(run: RunFolder) -> None:
    service = Service(fails=lambda _: True)
    trials = trials_of(run, service)
    assert trials.single(BASE, "search") is None
    assert [(one.text, one.died) for one in run.failures] == [("tritonserver died: out of memory", True)]
    assert (trials.start_s, trials.overhead_s) == (8, 3.0)
    assert trials.single(OTHER, "search") is None
    assert service.starts == 2


def test_the_crash_of_a_running_server_is_no_failure_of_the_setting(run: RunFolder) -> None:
    service = Service(fails=lambda _: True)
    service.restarts = False
    with pytest.raises(ServerGone, match="The measurements so far are kept"):
        trials_of(run, service).single(BASE, "search")
    assert not run.failures
