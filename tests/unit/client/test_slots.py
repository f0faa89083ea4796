"""Which request gets the next slot, and how long each may wait for it."""

from __future__ import annotations

import threading

from clip_client.requests.servers import Servers, TryResult
from clip_client.requests.slots import SlotQueue, SlotRequest
from tests.unit.client.servers import FakeTransport


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def queue_of(most: int) -> tuple[SlotQueue, Clock]:
    clock = Clock()
    servers = Servers({"url": FakeTransport(lambda _: None)}, most)
    return SlotQueue(servers, threading.Event, clock), clock


def finish(queue: SlotQueue, *, rejected: bool = False, answered: bool = True) -> None:
    queue.finish(queue.servers.all[0], TryResult(rejected=rejected, answered=answered))


def granted(*requests: SlotRequest) -> list[bool]:
    assert all(each.event.is_set() for each in requests if each.is_granted), "it was woken"
    return [each.is_granted for each in requests]


def test_slots_are_handed_out_in_order() -> None:
    queue, _ = queue_of(2)
    first, second, third, fourth = (queue.enter(1.0) for _ in range(4))
    assert granted(first, second, third, fourth) == [True, True, False, False]
    finish(queue)
    assert granted(third, fourth) == [True, False]


def test_retries_go_before_first_tries_and_suspects_before_all() -> None:
    queue, _ = queue_of(1)
    queue.enter(1.0)
    new, retry, suspect = queue.enter(1.0), queue.enter(1.0, end=1.0), queue.enter(1.0, isolated=True)
    for expected in ([False, False, True], [False, True, True], [True, True, True]):
        finish(queue)
        assert granted(new, retry, suspect) == expected


def test_a_suspect_waits_for_the_others_and_they_for_it() -> None:
    queue, _ = queue_of(4)
    queue.enter(1.0)
    suspect, new = queue.enter(1.0, isolated=True), queue.enter(1.0)
    assert granted(suspect, new) == [False, False], "new ones would keep it waiting forever"
    finish(queue)
    assert granted(suspect, new) == [True, False]
    finish(queue)
    assert granted(new) == [True]


def test_a_suspect_that_gives_up_holds_back_no_request() -> None:
    queue, _ = queue_of(4)
    queue.enter(1.0)
    suspect, new = queue.enter(1.0, isolated=True), queue.enter(1.0)
    queue.leave(suspect)
    assert granted(suspect, new) == [False, True]


def test_a_slot_that_came_too_late_goes_to_the_next() -> None:
    queue, _ = queue_of(1)
    first, second, third = (queue.enter(1.0) for _ in range(3))
    finish(queue)
    assert granted(first, second, third) == [True, True, False]
    queue.leave(second)
    assert granted(third) == [True]


def test_time_behind_answered_requests_does_not_count() -> None:
    queue, clock = queue_of(1)
    queue.enter(1.0)
    waiting = queue.enter(1.0)
    for clock.now in (0.9, 1.8, 2.7):
        assert queue.remaining_s(waiting) > 0
        queue.servers.deadline_start(0.0)
        if clock.now < 2.7:
            queue.enter(1.0, end=9.0)  # a retry goes first
        finish(queue)
    assert granted(waiting) == [True]
    assert waiting.end == 2.7 + 1.0


def test_time_behind_suspects_does_not_count_for_other_suspects() -> None:
    queue, clock = queue_of(4)
    suspects = [queue.enter(0.75, isolated=True) for _ in range(4)]
    for number, suspect in enumerate(suspects):
        assert granted(*suspects) == [True] * (number + 1) + [False] * (3 - number)
        assert suspect.end is not None
        assert suspect.end - clock.now == 0.75
        clock.now += 0.5
        finish(queue)


def test_time_behind_a_full_server_counts() -> None:
    queue, clock = queue_of(1)
    queue.enter(1.0)
    waiting = queue.enter(1.0)
    clock.now = 0.5
    queue.enter(1.0, end=9.0)
    finish(queue, rejected=True, answered=False)
    assert queue.remaining_s(waiting) == 0.5
    clock.now = 1.1
    assert queue.remaining_s(waiting) <= 0
    finish(queue, answered=False)
    assert granted(waiting) == [False], "its time is up"
    assert waiting.event.is_set(), "it was woken to leave"


def test_closing_wakes_all_and_grants_nothing() -> None:
    queue, _ = queue_of(1)
    queue.enter(1.0)
    waiting = [queue.enter(1.0), queue.enter(1.0, end=1.0), queue.enter(1.0, isolated=True)]
    queue.close()
    finish(queue)
    assert all(each.event.is_set() for each in waiting)
    assert granted(*waiting, queue.enter(1.0)) == [False] * 4
    assert [queue.remaining_s(each) for each in waiting] == [0.0] * 3
