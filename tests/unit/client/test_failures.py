"""How failures are classified, and the errors that they end in."""

from __future__ import annotations

import grpc
import pytest

from clip_client import ServerBusy, ServerUnavailable
from clip_client.requests.failures import DeadProcesses, Failure, item_errors, server_error
from tests.unit.client.servers import BROKEN, CONNECTING, FULL, INVALID, SILENT, stub

_S = grpc.StatusCode
DENIED = Failure(_S.UNAUTHENTICATED, "token expired")


@pytest.mark.parametrize(
    ("failure", "retryable"),
    [
        (FULL, True),
        (CONNECTING, True),
        (BROKEN, True),
        (stub(1), True),
        (Failure(_S.INTERNAL, "Failed to obtain the health mutex."), True),
        (Failure(_S.INVALID_ARGUMENT, "'clip_image' has no available versions"), True),
        (Failure(_S.NOT_FOUND, "Request for unknown model: 'clip_imag' is not found"), False),
        (INVALID, False),
        (SILENT, False),
        (Failure(_S.UNAVAILABLE, "This protocol is restricted, expecting header 'x'"), False),
        (DENIED, False),
    ],
)
def test_retryable_failures(failure: Failure, retryable: bool) -> None:
    assert failure.is_retryable is retryable


def test_only_lost_connections_and_dead_processes_are_crashes() -> None:
    assert [each.is_crash for each in (BROKEN, stub(0))] == [True, True]
    assert [each.is_crash for each in (FULL, CONNECTING, SILENT, INVALID)] == [False] * 4


def test_a_process_counts_once_until_the_server_is_restarted() -> None:
    dead = DeadProcesses()
    assert [dead.is_new_crash(each) for each in (stub(0), stub(0), stub(1))] == [True, False, True]
    assert dead.names == {"clip_image_preprocess_0_0", "clip_image_preprocess_0_1"}
    # The server is restarted for these two: its other requests in flight did not crash it.
    assert [dead.is_new_crash(each) for each in (BROKEN, CONNECTING, stub(0))] == [False, False, True]


def test_a_full_queue_says_nothing_about_dead_processes() -> None:
    dead = DeadProcesses()
    assert [dead.is_new_crash(each) for each in (stub(0), FULL, stub(0))] == [True, False, False]


def test_the_error_for_the_whole_run() -> None:
    assert isinstance(server_error("url", 1, FULL), ServerBusy)
    for failure in (CONNECTING, BROKEN, stub(0), SILENT):
        assert type(server_error("url", 1, failure)) is ServerUnavailable
    assert "header" in str(server_error("url", 1, DENIED))
    assert server_error("url", 1, INVALID) is None


def test_the_errors_of_rejected_photos() -> None:
    first, second = item_errors(stub(3), 2)
    assert first.code == second.code == "request_failed"
    assert "crashed the server 2 times when sent alone" in first.text
    assert "preprocess_0_3" in first.text
    (invalid,) = item_errors(INVALID, 1)
    assert "rejected the request: [StatusCode.INVALID_ARGUMENT] unexpected shape" in invalid.text
