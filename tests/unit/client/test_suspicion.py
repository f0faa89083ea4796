"""The decision after a failed try: retry, restart, blame or give up."""

from __future__ import annotations

import grpc

from clip_client.requests.failures import DeadProcesses, Failure
from clip_client.requests.suspicion import Decision, Suspicion
from tests.unit.client.servers import BROKEN, CONNECTING, FULL, INVALID, SILENT, stub


def decisions(
    *failures: Failure, dead: DeadProcesses | None = None, isolated: bool = False
) -> list[Decision]:
    suspicion = Suspicion(isolated=isolated, crashes_to_blame=2)
    dead = dead or DeadProcesses()
    return [suspicion.decide(failure, dead) for failure in failures]


RETRY, RESTART, BLAME = Decision.RETRY, Decision.RESTART, Decision.BLAME


def test_only_crashes_of_an_isolated_request_are_its_own() -> None:
    assert decisions(stub(0), stub(1), stub(2)) == [RESTART, RETRY, BLAME]
    failures = (BROKEN, CONNECTING, CONNECTING, BROKEN, CONNECTING, BROKEN)
    assert decisions(*failures) == [RESTART, *[RETRY] * 4, BLAME]
    assert decisions(stub(0), stub(1), isolated=True) == [RETRY, BLAME]


def test_a_process_that_stays_dead_blames_no_request() -> None:
    """Ten requests meet the same dead process again and again until the server is restarted."""
    dead = DeadProcesses()
    for _ in range(10):
        assert BLAME not in decisions(*[stub(0)] * 10, dead=dead)


def test_a_process_of_the_same_name_can_crash_again_after_a_restart() -> None:
    dead = DeadProcesses()
    assert decisions(stub(0), CONNECTING, stub(0), CONNECTING, stub(0), dead=dead)[-1] is BLAME
    assert dead.names == {"clip_image_preprocess_0_0"}


def test_a_restart_for_another_requests_crash_is_not_held_against_it() -> None:
    dead = DeadProcesses()
    assert decisions(stub(0), dead=dead) == [RESTART]
    assert decisions(stub(0), BROKEN, CONNECTING, dead=dead) == [RETRY] * 3


def test_rejections_are_not_crashes() -> None:
    assert decisions(*[FULL] * 9) == [RETRY] * 9


def test_a_rejected_request_is_blamed_only_when_it_is_alone() -> None:
    assert decisions(INVALID, INVALID, INVALID) == [RETRY, RETRY, BLAME]
    assert decisions(INVALID, CONNECTING, INVALID, FULL, INVALID) == [RETRY] * 4 + [BLAME]


def test_a_late_request_is_blamed_only_when_it_is_alone() -> None:
    assert decisions(SILENT, SILENT) == [RESTART, BLAME]
    assert decisions(INVALID, SILENT, INVALID) == [RETRY, RESTART, BLAME]


def test_a_denied_request_gives_up() -> None:
    denied = Failure(grpc.StatusCode.UNAVAILABLE, "This protocol is restricted, expecting header 'x'")
    assert decisions(denied) == [Decision.GIVE_UP]
