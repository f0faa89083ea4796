"""What is tried again, what is tried alone, and what is held to be the cause of a death."""

from __future__ import annotations

import grpc
import pytest

from clip_client import ServerBusy, ServerUnavailable
from clip_client.requests.failures import refused, unavailable
from clip_client.requests.retry import Attempts, Deaths, Failure, Verdict

_S = grpc.StatusCode
FULL = Failure(_S.UNAVAILABLE, "Exceeds maximum queue size")
CONNECTING = Failure(
    _S.UNAVAILABLE,
    "connections to all backends failing; last error: UNKNOWN: ipv4:127.0.0.1:8001: "
    "Failed to connect to remote host: getsockopt(SO_ERROR): Connection reset by peer",
)
BROKEN = Failure(_S.UNAVAILABLE, "Stream removed (Socket closed)")


def stub(number: int) -> Failure:
    return Failure(_S.INTERNAL, f"Stub process 'clip_image_preprocess_0_{number}' is not healthy.")


@pytest.mark.parametrize(
    ("failure", "passing"),
    [
        (FULL, True),
        (CONNECTING, True),
        (BROKEN, True),
        (stub(1), True),
        (Failure(_S.INTERNAL, "Failed to obtain the health mutex."), True),
        (Failure(_S.INVALID_ARGUMENT, "'clip_image' has no available versions"), True),
        (Failure(_S.NOT_FOUND, "Request for unknown model: 'clip_imag' is not found"), False),
        (Failure(_S.INVALID_ARGUMENT, "unexpected shape for input"), False),
        (Failure(_S.DEADLINE_EXCEEDED, "Deadline Exceeded"), False),
        (Failure(_S.UNAVAILABLE, "This protocol is restricted, expecting header 'x'"), False),
        (Failure(_S.UNAUTHENTICATED, "token expired"), False),
    ],
)
def test_what_is_worth_another_try(failure: Failure, passing: bool) -> None:
    assert failure.is_passing is passing
    assert (Attempts(Deaths()).judge(failure) is not Verdict.GIVE_UP) is passing


def verdicts(*failures: Failure, deaths: Deaths | None = None) -> list[tuple[Verdict, bool]]:
    """Of each failure, and whether the next try is to be alone."""
    attempts = Attempts(deaths or Deaths())
    return [(attempts.judge(failure), attempts.alone) for failure in failures]


ALONE, BLAMED = (Verdict.RETRY, True), (Verdict.BLAME, True)


def test_deaths_in_company_prove_nothing_and_deaths_alone_do() -> None:
    assert verdicts(stub(0), stub(1), stub(2)) == [ALONE, ALONE, BLAMED]
    assert verdicts(BROKEN, CONNECTING, CONNECTING, BROKEN, CONNECTING, BROKEN) == [ALONE] * 5 + [BLAMED]


def test_what_is_suspected_already_is_alone_from_the_first_try() -> None:
    attempts = Attempts(Deaths(), alone=True, proof=1)
    assert attempts.judge(stub(0)) is Verdict.BLAME


def test_a_process_that_stays_dead_is_nobodys_fault() -> None:
    """Ten requests meet the same dead process again and again until somebody renews it."""
    deaths = Deaths()
    for _ in range(10):
        assert BLAMED not in verdicts(*[stub(0)] * 10, deaths=deaths)


def test_a_process_of_the_same_name_can_die_again_after_a_restart() -> None:
    deaths = Deaths()
    seen = verdicts(stub(0), CONNECTING, stub(0), CONNECTING, stub(0), deaths=deaths)
    assert seen[-1] == BLAMED
    assert deaths.known == {"clip_image_preprocess_0_0"}


def test_who_meets_a_server_that_is_ended_for_anothers_death_is_not_its_cause() -> None:
    deaths = Deaths()
    assert verdicts(stub(0), deaths=deaths) == [ALONE]
    assert verdicts(stub(0), BROKEN, CONNECTING, deaths=deaths) == [(Verdict.RETRY, False)] * 3


def test_refusals_are_no_deaths() -> None:
    assert verdicts(*[FULL] * 9) == [(Verdict.RETRY, False)] * 9


def test_pauses_grow_and_are_bounded() -> None:
    attempts = Attempts(Deaths())
    pauses = [[Attempts(Deaths()).pause_s() for _ in range(50)], [attempts.pause_s() for _ in range(50)]]
    assert max(pauses[0]) <= 0.1
    assert 1.0 < max(pauses[1]) <= 5.0


def test_what_a_failure_ends_in() -> None:
    assert isinstance(unavailable("url", 1, FULL), ServerBusy)
    for failure in (CONNECTING, BROKEN, stub(0), Failure(_S.DEADLINE_EXCEEDED, "")):
        assert type(unavailable("url", 1, failure)) is ServerUnavailable
    assert "header" in str(unavailable("url", 1, Failure(_S.UNAUTHENTICATED, "token expired")))
    assert unavailable("url", 1, Failure(_S.INVALID_ARGUMENT, "unexpected shape")) is None
    first, second = refused(stub(3), 2)
    assert first.code == second.code == "request_failed"
    assert "preprocess_0_3" in first.text
