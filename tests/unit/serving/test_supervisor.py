"""When a dead server is restarted: policy on a fake server and a fake clock."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import pytest

from clip_serving import defaults
from clip_serving.errors import ServerError
from clip_serving.server.supervisor import Backoff, Supervisor

_STABLE = defaults.STABLE_AFTER_S + 1


class Clock(threading.Event):
    """The event that stops the supervisor. Waiting for it takes no time but moves the clock."""

    def __init__(self, end: float) -> None:
        super().__init__()
        self.now, self._end = 0.0, end

    def __call__(self) -> float:
        return self.now

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.now = min(self.now + timeout, self._end)
        if self.now == self._end:
            self.set()
        return self.is_set()


@dataclass
class Server:
    """Dies after so many seconds of each life; the life after the last one has no end.

    A life that is an error does not begin.
    """

    clock: Clock
    lives: Sequence[float | Exception]
    start_s: float = 0.0
    life: int = 0
    ready_at: float = 0.0
    running: bool = True
    events: list[tuple[str, float]] = field(default_factory=list)

    def death(self) -> str | None:
        if not self.running:
            return "the server is not running"
        lasts = self.lives[self.life] if self.life < len(self.lives) else float("inf")
        assert not isinstance(lasts, Exception)
        return "a stub died" if self.clock.now - self.ready_at >= lasts else None

    def kill(self) -> None:
        self.events.append(("kill", round(self.clock.now)))
        self.running = False

    def start(self) -> None:
        self.events.append(("start", round(self.clock.now)))
        self.clock.now += self.start_s
        self.life += 1
        if self.life < len(self.lives) and isinstance(failure := self.lives[self.life], Exception):
            raise failure
        self.running, self.ready_at = True, self.clock.now

    def times(self, kind: str) -> list[float]:
        return [at for event, at in self.events if event == kind]


def supervised(
    *lives: float | Exception, end: float = 1000, start_s: float = 0.0
) -> tuple[Server, Supervisor]:
    clock = Clock(end)
    server = Server(clock, lives, start_s)
    supervisor = Supervisor(
        death=server.death, kill=server.kill, start=server.start, stopping=clock, clock=clock
    )
    supervisor.run()
    return server, supervisor


def waits(server: Server) -> list[float]:
    """Seconds between each death and the next start."""
    return [start - kill for kill, start in zip(server.times("kill"), server.times("start"), strict=True)]


def test_a_running_server_is_left_alone() -> None:
    server, supervisor = supervised()
    assert server.events == []
    assert supervisor.restarts == 0


def test_a_server_that_keeps_dying_is_restarted_after_longer_waits() -> None:
    server, supervisor = supervised(*[0.0] * 8)
    assert waits(server) == [*defaults.RESTART_BACKOFF_S, 30.0, 30.0]
    assert supervisor.restarts == 8


def test_a_stable_run_resets_the_backoff() -> None:
    server, _ = supervised(0.0, 0.0, 0.0, _STABLE, 0.0)
    assert waits(server) == [0, 1, 2, 0, 1]


def test_a_run_that_is_not_stable_does_not() -> None:
    server, _ = supervised(0.0, 0.0, defaults.STABLE_AFTER_S - 5, 0.0)
    assert waits(server) == [0, 1, 2, 5]


@pytest.mark.parametrize("start_s", [0.0, 3 * _STABLE])
def test_a_failed_start_counts_as_a_death_however_long_it_took(start_s: float) -> None:
    failure = ServerError("not ready in time")
    server, supervisor = supervised(0.0, failure, failure, failure, start_s=start_s, end=5000)
    starts = server.times("start")
    assert [later - earlier for earlier, later in pairwise(starts)] == pytest.approx(
        [start_s + wait for wait in (1, 2, 5)], abs=1.1
    )
    assert supervisor.restarts == 1, "only a start that succeeds counts"


def test_what_a_failed_start_left_is_killed() -> None:
    server, _ = supervised(0.0, ServerError("the port is in use"))
    assert [event for event, _ in server.events] == ["kill", "start", "kill", "kill", "start"]


def test_an_error_that_was_not_expected_does_not_end_the_supervision(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.ERROR):
        _, supervisor = supervised(0.0, RuntimeError("out of memory"))
    assert supervisor.restarts == 1
    (record,) = caplog.records
    assert record.getMessage() == "restart failed: out of memory"
    assert record.exc_info, "with its traceback"


def test_stopping_ends_the_wait_for_a_restart() -> None:
    server, supervisor = supervised(*[0.0] * 6, end=15)
    assert server.times("start") == [0, 1, 3, 8], "the fifth was due at 18"
    assert server.events[-1][0] == "kill"
    assert supervisor.restarts == 4


def test_the_thread_ends_when_it_is_told_to() -> None:
    stopping = threading.Event()
    supervisor = Supervisor(death=lambda: None, kill=lambda: None, start=lambda: None, stopping=stopping)
    supervisor.join()  # not begun yet
    supervisor.begin()
    stopping.set()
    supervisor.join()
    assert "clip-serve-supervisor" not in {thread.name for thread in threading.enumerate()}


def test_backoff_repeats_its_last_wait() -> None:
    backoff = Backoff(waits_s=(0.0, 4.0), stable_after_s=10.0)
    assert [backoff.wait_s(ran_s=1.0) for _ in range(4)] == [0.0, 4.0, 4.0, 4.0]
    assert backoff.wait_s(ran_s=11.0) == 0.0
