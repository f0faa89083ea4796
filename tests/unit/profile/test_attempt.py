"""A try comes out as a measurement or as a failure, with what it took; only a lost server ends it all."""

from __future__ import annotations

import pytest

from clip_profile.errors import ServerGone
from clip_profile.load.perf_analyzer import Load
from clip_profile.records.measurement import Failure, Measurement
from clip_profile.sweep.attempt import Attempt, attempt
from tests.unit.profile.records import BASE
from tests.unit.profile.test_sweep import Service

LOAD = Load("closed", 5.0, 1, concurrency=8)


def tried(service: Service) -> Attempt:
    return attempt(service, service.measure, (BASE, 0, "closed"), lambda _: LOAD, lambda: service.now)


def test_a_start_and_what_a_run_takes_beyond_its_windows_are_told() -> None:
    service = Service()
    first, second = tried(service), tried(service)
    assert isinstance(first.outcome, Measurement)
    assert (first.start_s, first.over_s) == (8, 3)
    assert (second.start_s, second.over_s) == (None, 3)


def test_a_death_explains_the_failure_and_the_next_try_starts_anew() -> None:
    service = Service(fails=lambda _: True)
    first = tried(service)
    assert isinstance(first.outcome, Failure)
    assert first.outcome.text == "tritonserver died: out of memory"
    assert (first.start_s, first.over_s) == (8, None)
    assert tried(service).start_s == 8


def test_somebodys_server_that_died_is_no_failure_of_the_setting() -> None:
    service = Service(fails=lambda _: True)
    service.restarts = False
    with pytest.raises(ServerGone, match="What was measured is kept"):
        tried(service)
