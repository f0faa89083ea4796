"""The number in flight falls where load is refused, and recovers."""

from __future__ import annotations

from clip_client.requests.backoff import Pace


def test_all_are_let_through_while_nothing_is_refused() -> None:
    pace = Pace(16)
    for _ in range(16):
        assert pace.is_open()
        pace.begin()
    assert not pace.is_open()
    pace.end(refused=False)
    assert pace.is_open()


def test_refusals_of_one_round_count_once() -> None:
    pace = Pace(100)
    for _ in range(100):
        pace.begin()
    for _ in range(30):
        pace.end(refused=True, now=1.0)
    assert 60 <= pace.limit <= 70
    pace.end(refused=True, now=2.0)
    assert 40 <= pace.limit <= 50


def one(pace: Pace, now: float, *, refused: bool = False, answered: bool = True) -> bool:
    """Sends one request, and says whether the server is then held to be full."""
    pace.begin()
    pace.end(refused=refused, answered=answered, now=now)
    return pace.is_held_back


def test_waiting_counts_only_while_the_server_is_the_reason() -> None:
    pace = Pace(4)
    assert pace.waits_since(5.0) == 5.0
    assert not one(pace, 6.0)
    assert pace.waits_since(5.0) == 6.0, "behind one that was answered"
    assert pace.waits_since(7.0) == 7.0, "not behind it"
    assert one(pace, 8.0, refused=True)
    assert one(pace, 8.1), "fewer are let through than before"
    assert pace.waits_since(5.0) == 6.0
    assert [one(pace, moment) for moment in (9.0, 10.0, 11.0)] == [True, True, False]
    assert pace.waits_since(5.0) == 11.0
    one(pace, 20.0, answered=False)
    assert pace.waits_since(5.0) == 11.0, "nothing was answered"


def test_one_in_flight_is_held_back_until_it_is_answered() -> None:
    pace = Pace(1)
    assert [one(pace, 1.0, refused=True), one(pace, 2.0)] == [True, False]


def test_at_least_one_goes_through() -> None:
    pace = Pace(2)
    for moment in range(20):
        pace.begin()
        pace.end(refused=True, now=float(moment))
    assert pace.is_open()
    assert pace.limit == 1


def test_a_server_that_takes_a_certain_load_is_held_near_it() -> None:
    """Rounds of as many as allowed, of which the server takes 40."""
    pace, limits = Pace(256), []
    for second in range(200):
        sent = pace.limit
        for _ in range(sent):
            pace.begin()
        for number in range(sent):
            pace.end(refused=number >= 40, now=float(second))
        limits.append(sent)
    settled = limits[100:]
    assert 25 <= sum(settled) / len(settled) <= 45
    assert max(settled) <= 50


def test_one_that_is_to_be_alone_waits_for_the_others_and_they_for_it() -> None:
    pace = Pace(4)
    pace.begin()
    assert not pace.is_open(alone=True)
    pace.wish_to_be_alone = 1
    assert not pace.is_open(), "it would have to wait for ever behind new ones"
    pace.end(refused=False)
    assert pace.is_open(alone=True)
    pace.wish_to_be_alone = 0
    pace.begin(alone=True)
    assert not pace.is_open()
    pace.end(refused=False)
    assert pace.is_open()
