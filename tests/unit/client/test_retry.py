"""A request that fails is retried, isolated, split, blamed or given up. In simulated time."""

from __future__ import annotations

import asyncio
import itertools
import random
import threading
from collections.abc import Iterable
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_client import ItemError, ServerBusy, ServerMismatch, ServerUnavailable, defaults
from clip_client.requests.drivers import run, run_async
from clip_client.requests.failures import Failure
from clip_client.requests.flow import Call, Wait
from clip_client.requests.retry import RetryEngine
from clip_client.requests.servers import Servers
from tests.unit.client.servers import (
    BROKEN,
    CONNECTING,
    FULL,
    INFO,
    INVALID,
    SHM_FULL,
    SILENT,
    AsyncFakeTransport,
    FakeTransport,
    Simulation,
    answer,
    photos_of,
    stub,
    without_padding,
)

_PHOTOS = [[b"photo"]] * 18
"""Requests of 0.1 s each: one after the other they take more than twice the deadline of 0.8 s."""


def engine_of(clock: Any = lambda: 0.0, transport: Any = None, event: Any = threading.Event) -> RetryEngine:
    servers = Servers({"url": transport or FakeTransport(lambda _: None)}, 4)
    return RetryEngine(servers, 60.0, event, clock)


def test_the_commands_of_a_request_that_is_rejected_once() -> None:
    engine = engine_of()
    flow = engine.request(INFO, [b"photo"])
    call = next(flow)
    assert isinstance(call, Call)
    assert (photos_of(call.argument), call.timeout_s) == ([b"photo"], 60.0)
    assert not engine.servers.all[0].limit.allows(isolated=True), "it has a slot"
    pause = flow.send(FULL)
    assert isinstance(pause, Wait)
    assert pause.event is engine.slots.closed
    assert pause.timeout_s <= defaults.RETRY_INITIAL_S
    assert engine.servers.all[0].limit.allows(isolated=True), "it gave its slot back"
    assert engine.servers.all[0].limit.is_overloaded
    assert flow.send(None) == call
    with pytest.raises(StopIteration) as stop:
        flow.send(answer([b"photo"]))
    assert [entry.shape for entry in stop.value.value.outcomes] == [(2,)]


def test_an_interrupted_request_gives_its_slot_back() -> None:
    engine = engine_of()
    holding = [engine.request(INFO, [b"photo"]) for _ in range(4)]
    for each in holding:
        assert isinstance(next(each), Call)
    waiting = engine.request(INFO, [b"photo"])
    assert isinstance(next(waiting), Wait)
    waiting.close()
    for each in holding:
        each.close()
    assert engine.servers.all[0].limit.allows(isolated=True)


class Interrupting(FakeTransport):
    """A Transport whose calls are interrupted."""

    def infer(self, request: bytes, timeout_s: float) -> Any:
        del request, timeout_s
        raise KeyboardInterrupt


class Cancelled(AsyncFakeTransport):
    """A Transport whose calls are cancelled."""

    async def infer(self, request: bytes, timeout_s: float) -> Any:
        del request, timeout_s
        raise asyncio.CancelledError


def test_the_drivers_give_back_the_slot_of_an_interrupted_call() -> None:
    engine = engine_of(transport=Interrupting(lambda _: None))
    # The exception keeps the flow alive, so that Python itself does not close it.
    with pytest.raises(KeyboardInterrupt) as interrupt:
        run(engine.request(INFO, [b"photo"]))
    assert engine.servers.all[0].limit.allows(isolated=True), interrupt

    async def cancelled() -> None:
        other = engine_of(transport=Cancelled(lambda _: None), event=asyncio.Event)
        with pytest.raises(asyncio.CancelledError) as cancellation:
            await run_async(other.request(INFO, [b"photo"]))
        assert other.servers.all[0].limit.allows(isolated=True), cancellation

    asyncio.run(cancelled())


def test_time_behind_answered_requests_does_not_count() -> None:
    simulation = Simulation(lambda _: None)
    assert [len(rows) for rows in simulation.requests(*_PHOTOS)] == [1] * len(_PHOTOS)
    assert simulation.now == pytest.approx(1.8)


def test_a_server_that_stays_full_ends_in_server_busy_in_time() -> None:
    simulation = Simulation(lambda _: FULL, seconds=0.0)
    assert {type(each) for each in simulation.requests(*_PHOTOS)} == {ServerBusy}
    assert simulation.now < 2


def test_requests_do_not_wait_one_by_one_for_a_silent_server() -> None:
    simulation = Simulation(lambda _: None, seconds=99)
    assert {type(each) for each in simulation.requests(*_PHOTOS)} == {ServerUnavailable}
    assert simulation.now < 3


def test_a_retry_goes_before_first_tries() -> None:
    """The first request is rejected once. Behind all the others it would have no time left."""
    once = iter([FULL])
    simulation = Simulation(lambda _: next(once, None))
    assert [len(rows) for rows in simulation.requests(*_PHOTOS)] == [1] * len(_PHOTOS)


def test_a_suspect_is_isolated() -> None:
    """The connection breaks under one of six requests, then again and again under it alone."""
    company = []

    def outcome(photos: list[bytes]) -> Failure | None:
        if photos == [b"poison"]:
            company.append(len(simulation.in_flight))
            return BROKEN
        return None

    simulation = Simulation(outcome, deadline_s=20, concurrency=6)
    results = simulation.requests([b"0"], [b"1"], [b"poison"], *([b"%d" % n] for n in range(3, 30)))
    assert [isinstance(rows[0], ItemError) for rows in results] == [n == 2 for n in range(30)]
    assert company[0] > 1
    assert company[1:] == [1, 1]


def test_a_suspects_deadline_starts_again_behind_other_suspects() -> None:
    """All six connections break at once. One after the other they take twice the deadline."""
    script = iter([BROKEN] * 6)
    simulation = Simulation(lambda _: next(script, None), seconds=0.5, deadline_s=1.5, concurrency=6)
    assert [len(rows) for rows in simulation.requests(*_PHOTOS[:6])] == [1] * 6
    assert simulation.now > 3


def test_a_group_that_crashes_the_server_is_split() -> None:
    sent = []

    def outcome(photos: list[bytes]) -> Failure | None:
        sent.append(photos)
        return BROKEN if b"poison" in photos else None

    group = [b"poison", b"good"]
    ((poison, good),) = Simulation(outcome, deadline_s=20).requests(group)
    assert sent == [group, group, [b"poison"], [b"poison"], [b"good"]], "the single photos are suspects"
    assert isinstance(poison, ItemError)
    assert "crashed the server 2 times when sent alone" in poison.text
    assert isinstance(good, np.ndarray)


def test_a_request_that_the_server_rejects_is_an_error_of_its_photos() -> None:
    ((first, second),) = Simulation(lambda _: INVALID, deadline_s=20).requests([b"a", b"b"])
    assert {first.code, second.code} == {"request_failed"}
    assert "unexpected shape" in first.text


def test_rejections_due_to_other_requests_in_the_batch_cost_no_photo() -> None:
    """Another client's malformed request fails every batch that has room for it."""
    sizes = []

    def outcome(photos: list[bytes]) -> Failure | None:
        sizes.append(len(photos))
        return INVALID if len(photos) < INFO.max_batch_size else None

    rows = Simulation(outcome, deadline_s=20, concurrency=4).requests([b"a"], [b"b", b"c"], [b"d"] * 64)
    assert [len(each) for each in rows] == [1, 2, 64]
    assert not any(isinstance(row, ItemError) for each in rows for row in each)
    assert sorted(sizes) == [1, 1, 2, 2, 64, 64, 64]


def test_a_group_with_a_photo_that_the_server_rejects_is_split() -> None:
    ((bad, good),) = Simulation(lambda photos: INVALID if b"bad" in photos else None, deadline_s=20).requests(
        [b"bad", b"good"]
    )
    assert isinstance(bad, ItemError)
    assert isinstance(good, np.ndarray)


def late(photos: list[bytes]) -> Failure | None:
    return SILENT if b"late" in photos else None


@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.parametrize("group", [[b"late"], [b"late", b"good"]])
def test_a_photo_that_is_never_answered_is_an_error_of_its_own(group: list[bytes], concurrency: int) -> None:
    """It is alone in flight at the end, so only an empty photo shows that the server works."""
    simulation = Simulation(late, concurrency=concurrency)
    results = simulation.requests(group, *[[b"good"]] * 20, [b"late"])
    assert results[0][0].code == results[-1][0].code == "request_timeout"
    assert not any(isinstance(row, ItemError) for rows in results[1:-1] for row in rows)
    assert not isinstance(results[0][-1], ItemError) or len(group) == 1


@pytest.mark.parametrize("probed", [SILENT, CONNECTING, stub(0)])
def test_a_server_that_does_not_answer_the_probe_either_ends_the_run(probed: Failure) -> None:
    simulation = Simulation(lambda photos: SILENT if photos == [b"photo"] else probed)
    (error,) = simulation.requests([b"photo"])
    assert isinstance(error, ServerUnavailable)


def test_a_photo_that_is_late_once_is_embedded_alone() -> None:
    sent = []

    def outcome(photos: list[bytes]) -> Failure | None:
        sent.append(len(photos))
        return SILENT if len(sent) == 1 else None

    ((row,),) = Simulation(outcome).requests([b"photo"])
    assert isinstance(row, np.ndarray)
    assert sent == [1, 1, 64], "the photo, the probe, and the photo alone"


def test_full_shared_memory_is_waited_for() -> None:
    script = iter([SHM_FULL] * 4)
    ((row,),) = Simulation(lambda _: next(script, None), deadline_s=60).requests([b"photo"])
    assert isinstance(row, np.ndarray)
    (error,) = Simulation(lambda _: SHM_FULL, deadline_s=60).requests([b"photo"])
    assert isinstance(error, ServerUnavailable)
    assert "/dev/shm is full" in str(error)


def test_a_photo_too_large_for_the_shared_memory_is_an_error_of_its_own() -> None:
    simulation = Simulation(
        lambda photos: SHM_FULL if b"large" in photos else None, deadline_s=60, concurrency=2
    )
    large, *others = simulation.requests([b"large"], *[[b"small"]] * 20)
    assert large[0].code == "request_failed"
    assert not any(isinstance(row, ItemError) for (row,) in others)


def test_the_model_is_asked_for_until_the_deadline() -> None:
    clock = itertools.count()
    flow = engine_of(lambda: next(clock)).model_info("clip_image", 60)
    commands = [next(flow)]

    def fail() -> None:
        while True:
            commands.append(flow.send(CONNECTING))

    with pytest.raises(ServerUnavailable, match="no answer from the server at url within 60 s"):
        fail()
    calls = [each for each in commands if isinstance(each, Call)]
    assert len(calls) > 10
    assert calls[0].timeout_s > 50
    assert calls[-1].timeout_s < 10


def test_a_server_without_the_model_is_a_mismatch() -> None:
    flow = engine_of().model_info("clip_imag", 60)
    next(flow)
    with pytest.raises(ServerMismatch, match=r"does not serve clip_imag: .* unexpected shape"):
        flow.send(INVALID)


failures = st.sampled_from([None, FULL, CONNECTING, BROKEN, stub(0), stub(1), SILENT, INVALID, SHM_FULL])
groups = st.lists(
    st.lists(st.sampled_from([b"a", b"b", b"c"]), min_size=1, max_size=3), min_size=1, max_size=4
)


class Script:
    """A server that fails as scripted and then answers; it keeps what it was sent."""

    def __init__(self, script: Iterable[Failure | None]) -> None:
        self._script = iter(script)
        self.sent: list[list[bytes]] = []

    def __call__(self, photos: list[bytes]) -> Failure | None:
        self.sent.append(photos)
        return next(self._script, None)


def ticking() -> Any:
    """A clock that depends on nothing but the decisions: a hundredth of a second passes at each look."""
    ticks = itertools.count()
    return lambda: next(ticks) / 100


def described(flow_result: Any) -> list[str]:
    return [str(each) for each in flow_result.outcomes]


def sync_decisions(script: list[Failure | None], requests: list[list[bytes]]) -> Any:
    server = Script(script)
    engine = engine_of(ticking(), FakeTransport(server))
    results = []
    for photos in requests:
        try:
            results.append(described(run(engine.request(INFO, photos))))
        except ServerUnavailable as error:
            results.append([repr(error)])
    return results, server.sent, engine.servers.all[0].limit.current, engine.servers.dead_processes


def async_decisions(script: list[Failure | None], requests: list[list[bytes]]) -> Any:
    async def decide() -> Any:
        server = Script(script)
        engine = engine_of(ticking(), AsyncFakeTransport(server), asyncio.Event)
        results = []
        for photos in requests:
            try:
                results.append(described(await run_async(engine.request(INFO, photos))))
            except ServerUnavailable as error:
                results.append([repr(error)])
        return results, server.sent, engine.servers.all[0].limit.current, engine.servers.dead_processes

    return asyncio.run(decide())


@given(script=st.lists(failures, max_size=12), requests=groups)
def test_both_drivers_make_the_same_decisions(
    script: list[Failure | None], requests: list[list[bytes]]
) -> None:
    with patch.object(defaults, "RETRY_INITIAL_S", 0.0):
        assert sync_decisions(script, requests) == async_decisions(script, requests)


@settings(max_examples=200)
@given(
    script=st.lists(failures, max_size=30), requests=groups, most=st.integers(1, 4), seed=st.integers(0, 999)
)
def test_whatever_fails_each_photo_has_a_result_and_only_isolated_ones_are_blamed(
    script: list[Failure | None], requests: list[list[bytes]], most: int, seed: int
) -> None:
    """Requests side by side, in any order."""
    alone: list[bytes] = []

    def outcome(photos: list[bytes]) -> Failure | None:
        failure, own = server(photos), without_padding(photos)
        if failure and failure.is_crash and len(own) == len(simulation.in_flight) == 1:
            alone.extend(own)
        return failure

    server = Script(script)
    unique = [[b"%d%d" % (i, j) + photo for j, photo in enumerate(each)] for i, each in enumerate(requests)]
    simulation = Simulation(
        outcome, seconds=0.01, deadline_s=20, concurrency=most, shuffle=random.Random(seed)
    )
    results = simulation.requests(*unique)
    assert simulation.most_in_flight <= most
    assert simulation.engine.servers.all[0].limit.allows(isolated=True), "all slots were given back"
    for photos, rows in zip(unique, results, strict=True):
        if isinstance(rows, ServerUnavailable):
            continue
        assert len(rows) == len(photos)
        for photo, row in zip(photos, rows, strict=True):
            if isinstance(row, ItemError) and "crashed" in row.text:
                assert alone.count(photo) >= defaults.MAX_ISOLATED_CRASHES
