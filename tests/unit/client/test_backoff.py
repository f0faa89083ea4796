"""Pauses grow with each retry; the number in flight falls where load is rejected, and recovers."""

from __future__ import annotations

from clip_client.requests.backoff import Backoff, InFlightLimit


def test_pauses_grow_and_are_bounded() -> None:
    first = [Backoff().next_s() for _ in range(50)]
    backoff = Backoff()
    later = [backoff.next_s() for _ in range(50)]
    assert max(first) <= 0.1
    assert 1.0 < max(later) <= 5.0


def test_all_are_let_through_while_nothing_is_rejected() -> None:
    limit = InFlightLimit(16)
    for _ in range(16):
        assert limit.allows()
        limit.start()
    assert not limit.allows()
    limit.finish(0.0, rejected=False, answered=True)
    assert limit.allows()


def test_rejections_of_one_round_count_once() -> None:
    limit = InFlightLimit(100)
    for _ in range(100):
        limit.start()
    for _ in range(30):
        limit.finish(1.0, rejected=True, answered=False)
    assert 60 <= limit.current <= 70
    limit.finish(2.0, rejected=True, answered=False)
    assert 40 <= limit.current <= 50


def one(limit: InFlightLimit, now: float, *, rejected: bool = False, answered: bool = True) -> bool:
    """Runs one request, and returns whether the server counts as overloaded then."""
    limit.start()
    limit.finish(now, rejected=rejected, answered=answered and not rejected)
    return limit.is_overloaded


def test_the_deadline_runs_only_while_the_server_is_the_reason_to_wait() -> None:
    limit = InFlightLimit(4)
    assert limit.deadline_start(5.0) == 5.0
    assert not one(limit, 6.0)
    assert limit.deadline_start(5.0) == 6.0, "behind a request that was answered"
    assert limit.deadline_start(7.0) == 7.0, "not behind it"
    assert one(limit, 8.0, rejected=True)
    assert one(limit, 8.1), "the limit is still reduced"
    assert limit.deadline_start(5.0) == 6.0
    assert [one(limit, moment) for moment in (9.0, 10.0, 11.0)] == [True, True, False]
    assert limit.deadline_start(5.0) == 11.0
    one(limit, 20.0, answered=False)
    assert limit.deadline_start(5.0) == 11.0, "nothing was answered"


def test_a_single_slot_is_overloaded_until_the_next_answer() -> None:
    limit = InFlightLimit(1)
    assert [one(limit, 1.0, rejected=True), one(limit, 2.0)] == [True, False]


def test_at_least_one_goes_through() -> None:
    limit = InFlightLimit(2)
    for moment in range(20):
        limit.start()
        limit.finish(float(moment), rejected=True, answered=False)
    assert limit.allows()
    assert limit.current == 1


def test_load_stays_near_a_fixed_server_capacity() -> None:
    """Rounds of as many requests as allowed, of which the server takes 40."""
    limit, sizes = InFlightLimit(256), []
    for second in range(200):
        sent = limit.current
        for _ in range(sent):
            limit.start()
        for number in range(sent):
            limit.finish(float(second), rejected=number >= 40, answered=number < 40)
        sizes.append(sent)
    settled = sizes[100:]
    assert 25 <= sum(settled) / len(settled) <= 45
    assert max(settled) <= 50


def test_an_isolated_request_is_in_flight_alone() -> None:
    limit = InFlightLimit(4)
    limit.start()
    assert not limit.allows(isolated=True)
    limit.finish(0.0, rejected=False, answered=True)
    assert limit.allows(isolated=True)
    limit.start(isolated=True)
    assert not limit.allows()
    limit.finish(0.0, rejected=False, answered=True)
    assert limit.allows()
