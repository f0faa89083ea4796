"""A trial becomes a measurement or a failure, and its costs are known; only a lost server ends the sweep."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest

from clip_profile.console import Console
from clip_profile.errors import ServerGone
from clip_profile.records.run_folder import RunFolder
from clip_profile.sweep.budget import Budget
from clip_profile.sweep.trials import Trials
from tests.unit.profile.records import BASE, about, setting
from tests.unit.profile.test_sweep import Service

OTHER = setting(concurrency=2)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunFolder]:
    with RunFolder.create_or_resume(tmp_path / "run", about()) as run:
        yield run


def trials_of(run: RunFolder, service: Service, budget: Budget) -> Trials:
    console = Console(io.StringIO())
    return Trials(run, service, service.measure, budget, console, clock=lambda: service.now)


def test_the_cost_of_a_start_and_of_a_run_beyond_its_windows_is_learned(run: RunFolder) -> None:
    service, budget = Service(), Budget(1e6)
    trials = trials_of(run, service, budget)
    assert trials.single(BASE, "search") is not None
    assert (budget.start_s, budget.overhead_s) == (8, 3)
    assert trials.cost_s(OTHER) == 6 + 3, "its server is running"
    budget.start_s = 0.0
    assert trials.single(OTHER, "search") is not None
    assert budget.start_s == 0, "a run without a start says nothing about one"
    assert trials.single(BASE, "search") is not None
    assert len(service.runs) == 2, "nothing is measured twice"


def test_a_crash_explains_the_failure_and_the_next_trial_restarts_the_server(run: RunFolder) -> None:
    service, budget = Service(fails=lambda _: True), Budget(1e6)
    trials = trials_of(run, service, budget)
    assert trials.single(BASE, "search") is None
    assert [(one.text, one.died) for one in run.failures] == [("tritonserver died: out of memory", True)]
    assert (budget.start_s, budget.overhead_s) == (8, 3.0)
    assert trials.single(OTHER, "search") is None
    assert service.starts == 2


def test_the_crash_of_a_running_server_is_no_failure_of_the_setting(run: RunFolder) -> None:
    service = Service(fails=lambda _: True)
    service.restarts = False
    with pytest.raises(ServerGone, match="The measurements so far are kept"):
        trials_of(run, service, Budget(1e6)).single(BASE, "search")
    assert not run.failures
