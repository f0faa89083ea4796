"""Which of several servers gets a request, and what happens if one fails, stalls or differs. Simulated."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_client import ServerUnavailable, defaults
from clip_client.requests.failures import Failure
from clip_client.requests.flow import Call, Wait
from clip_client.requests.retry import RetryEngine
from clip_client.requests.servers import Server, Servers, TryResult
from clip_client.requests.slots import SlotQueue
from clip_client.requests.suspicion import Suspicion
from tests.unit.client.servers import (
    BROKEN,
    FULL,
    INVALID,
    REFUSED,
    SILENT,
    FakeTransport,
    Outcome,
    Simulation,
    answer,
    photos_of,
    stub,
    without_padding,
)

_ANSWER = partial(TryResult, answered=True)


def servers_of(*urls: str, concurrency: int = 4) -> Servers:
    return Servers({url: FakeTransport(lambda _: None) for url in urls}, concurrency)


def queue_of(servers: Servers, now: Callable[[], float] = lambda: 0.0) -> SlotQueue:
    return SlotQueue(servers, threading.Event, now)


def sent_to(queue: SlotQueue, count: int, **options: Any) -> Counter[str]:
    """The servers of `count` requests that are sent at once; "" for those that wait."""
    places = [queue.enter(9.0, **options) for _ in range(count)]
    return Counter(place.server.url if place.server else "" for place in places)


def best(servers: Servers, now: float, *avoid: Server) -> list[str]:
    return [server.url for server in servers.best(now, avoid, None)]


def test_requests_are_spread_within_each_servers_own_limit() -> None:
    assert sent_to(queue_of(servers_of("a", "b", "c")), 6) == {"a": 2, "b": 2, "c": 2}
    assert sent_to(queue_of(servers_of("a", "b")), 10) == {"a": 4, "b": 4, "": 2}


def test_the_server_that_will_answer_first_gets_the_next_request() -> None:
    servers = servers_of("fast", "slow", concurrency=9)
    fast, slow = servers.all
    for server, seconds in ((fast, 0.1), (slow, 0.4)):
        server.limit.start()
        servers.note(server, _ANSWER(answer_s=seconds), 0.0)
    assert sent_to(queue_of(servers), 10) == {"fast": 8, "slow": 2}


def test_one_slow_answer_does_not_keep_requests_away_for_good() -> None:
    """Requests come one at a time, so a server gets one only if it is expected to answer first."""
    servers = servers_of("fast", "slow at first", concurrency=9)
    fast, slow = servers.all
    slow.limit.start()
    servers.note(slow, _ANSWER(answer_s=5.0), 0.0)
    answered: Counter[str] = Counter()
    for number in range(2000):
        now = number * 0.01
        server = servers.best(now, (), None)[0]
        server.limit.start()
        servers.note(server, _ANSWER(answer_s=0.01), now + 0.01)
        answered[server.url if now > 10 else ""] += 1
    assert min(answered[fast.url], answered[slow.url]) > 300, "equal servers share the work"


def test_a_server_that_is_away_rests_longer_each_time_and_is_used_if_no_other_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("random.uniform", lambda _, most: most)
    servers = servers_of("a", "b")
    a, b = servers.all
    for rest_s in (0.1, 0.2, 0.4):
        for _ in range(5):  # requests that fail together
            a.limit.start()
            servers.note(a, TryResult(away=True), 0.0)
        assert (best(servers, rest_s * 0.99), best(servers, rest_s)) == (["b"], ["a", "b"])
        a.rests_until = 0.0
    b.rest(0.0)
    a.rest(0.0)
    assert best(servers, 0.05) == ["b"], "its rest ends first"
    a.limit.start()
    servers.note(a, _ANSWER(answer_s=0.1), 0.05)
    assert best(servers, 0.05) == ["a"], "an answer ends the rest"


def test_a_request_is_not_sent_again_to_the_server_where_it_failed() -> None:
    servers = servers_of("a", "b")
    a, b = servers.all
    assert best(servers, 9.0, a) == ["b"]
    assert best(servers, 9.0, a, b) == ["a", "b"], "unless there is no other"
    suspicion = Suspicion(isolated=False, crashes_to_blame=2)
    for server in (a, b):
        suspicion.failed_on(server, servers)
        assert suspicion.avoid == {server}


def test_a_stalled_server_gets_one_request_at_a_time_until_it_answers() -> None:
    servers = servers_of("a", "b")
    a, _ = servers.all
    for _ in range(4):
        a.limit.start()
    for _ in range(4):
        servers.note(a, TryResult(stalled=True), 0.0)
    assert best(servers, 0.9 * defaults.PATIENCE_S) == ["b"]
    later = queue_of(servers, lambda: 2 * defaults.PATIENCE_S)
    assert sent_to(later, 6) == {"a": 1, "b": 4, "": 1}


def test_a_server_that_is_many_times_slower_is_sent_fewer_at_a_time() -> None:
    servers = servers_of("fast", "slow", concurrency=16)
    fast, slow = servers.all
    for number in range(8):
        for server, seconds in ((fast, 0.1), (slow, 2.0)):
            server.limit.start()
            servers.note(server, _ANSWER(answer_s=seconds), float(number))
    assert (fast.limit.current, slow.limit.current) == (16, 1)


def test_a_suspect_is_isolated_on_one_server_while_the_others_go_on() -> None:
    servers = servers_of("a", "b", concurrency=2)
    queue = queue_of(servers)
    assert sent_to(queue, 2) == {"a": 1, "b": 1}
    suspect = queue.enter(9.0, isolated=True)
    a, b = servers.all
    assert sent_to(queue, 3) == {"b": 1, "": 2}, "none where the suspect waits"
    assert not suspect.is_granted
    queue.finish(a, _ANSWER())
    assert suspect.server is a
    queue.finish(b, _ANSWER())
    assert (a.limit.in_flight, b.limit.in_flight) == (1, 2)
    queue.finish(a, _ANSWER())
    assert a.limit.in_flight == 1, "the last one that waited"


@dataclass
class Replica:
    """A simulated server. `outcome` is called at the end of a request, which takes `seconds`."""

    outcome: Outcome = lambda _: None
    seconds: float = 0.1
    answered: int = 0


class Cluster(Simulation):
    """A Simulation of several servers."""

    def __init__(
        self,
        *replicas: Replica,
        deadline_s: float = 60.0,
        concurrency: int = 4,
        shuffle: random.Random | None = None,
    ) -> None:
        super().__init__(lambda _: None, shuffle=shuffle)
        transports = [FakeTransport(each.outcome) for each in replicas]
        self._replicas = dict(zip(transports, replicas, strict=True))
        servers = Servers(dict(zip("abc", transports, strict=False)), concurrency)
        self.engine = RetryEngine(servers, deadline_s, threading.Event, lambda: self.now)

    def _replica(self, command: Call) -> Replica:
        return self._replicas[command.function.__self__]  # type: ignore[attr-defined]

    def _begin(self, command: Wait | Call) -> float:
        if isinstance(command, Wait):
            return command.timeout_s
        return min(self._replica(command).seconds, command.timeout_s)

    def _end_call(self, command: Call) -> Any:
        replica, photos = self._replica(command), photos_of(command.argument)
        if command.timeout_s < replica.seconds:
            return SILENT
        failure = replica.outcome(photos)
        replica.answered += failure is None
        return failure or answer(photos)


def errors(results: list[Any]) -> list[Any]:
    """What is no vector."""
    return [each for each in results if isinstance(each, Exception) or isinstance(each[0], Exception)]


_PHOTOS = [[b"%d" % number] for number in range(200)]


def test_a_server_that_dies_and_comes_back_loses_nothing() -> None:
    cluster = Cluster(
        Replica(), Replica(lambda _: None if not 1.0 < cluster.now < 2.0 else REFUSED), deadline_s=5
    )
    assert errors(cluster.requests(*_PHOTOS)) == []
    one, two = cluster._replicas.values()
    assert one.answered + two.answered == len(_PHOTOS)
    assert one.answered > two.answered > 20


def test_the_requests_of_a_killed_server_are_answered_by_the_other() -> None:
    """They are suspects, because one of them may have killed it."""
    killed: list[bytes] = []

    def dies(photos: list[bytes]) -> Failure | None:
        killed.extend(photos)
        return BROKEN if len(killed) <= 4 else REFUSED

    cluster = Cluster(Replica(), Replica(dies))
    assert errors(cluster.requests(*_PHOTOS)) == []
    assert len(killed) >= 4


def test_a_photo_that_kills_each_server_is_blamed_after_its_isolated_crashes() -> None:
    kills = 0

    def outcome(photos: list[bytes]) -> Failure | None:
        nonlocal kills
        kills += (crashes := b"7" in without_padding(photos))
        return BROKEN if crashes else None

    results = Cluster(Replica(outcome), Replica(outcome)).requests(*_PHOTOS[:20])
    ((error,),) = errors(results)
    assert error.code == "request_failed"
    assert kills == 1 + defaults.MAX_ISOLATED_CRASHES


def test_a_stalled_server_gets_little_and_costs_no_request() -> None:
    cluster = Cluster(Replica(), Replica(seconds=1000.0))
    assert errors(cluster.requests(*_PHOTOS)) == []
    assert cluster.now < 3 * defaults.PATIENCE_S


def test_a_slow_photo_is_tried_on_another_server_and_then_as_long_as_its_deadline_allows() -> None:
    """It takes longer than a server's patience, on any of them, while these answer others."""
    cluster = Cluster(Replica(seconds=20.0), Replica(seconds=20.0), Replica(seconds=20.0))
    assert errors(cluster.requests([b"photo"])) == []
    assert cluster.now <= 2 * defaults.PATIENCE_S + 20.0 + 2 * defaults.RETRY_MAXIMUM_S


def test_overload_of_all_servers_is_reported_for_all() -> None:
    cluster = Cluster(Replica(lambda _: FULL), Replica(lambda _: FULL), deadline_s=1.0)
    (error,) = cluster.requests([b"photo"])
    assert isinstance(error, ServerUnavailable)
    gone = Cluster(Replica(lambda _: REFUSED, 0.0), Replica(lambda _: REFUSED, 0.0), deadline_s=1.0)
    (error,) = gone.requests([b"photo"])
    assert isinstance(error, ServerUnavailable)
    assert "Connection refused" in str(error)


_FAILURES = st.sampled_from([None, FULL, REFUSED, BROKEN, stub(0), INVALID])
_SCRIPTS = st.lists(st.lists(_FAILURES, max_size=5), min_size=2, max_size=3)


@settings(max_examples=150)
@given(scripts=_SCRIPTS, count=st.integers(1, 30), most=st.integers(1, 3), seed=st.integers(0, 999))
def test_whatever_servers_do_each_photo_has_one_result_and_all_slots_are_given_back(
    scripts: list[list[Failure | None]], count: int, most: int, seed: int
) -> None:
    """Each server fails as scripted, and then answers. Requests run side by side, in any order."""

    def replica(script: list[Failure | None]) -> Replica:
        failures = iter(script)
        return Replica(lambda _: next(failures, None), 0.01)

    cluster = Cluster(*map(replica, scripts), concurrency=most, shuffle=random.Random(seed))
    assert [len(result) for result in cluster.requests(*_PHOTOS[:count])] == [1] * count
    assert all(server.limit.allows(isolated=True) for server in cluster.engine.servers.all)
