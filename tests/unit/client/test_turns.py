"""Whoever waits for a turn in this process loses no time for it, unless the server is the reason."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as pb

from clip_client import AsyncClipClient, ClipClient, ItemError, ModelInfo, ServerBusy, ServerUnavailable
from clip_client.requests.in_flight import Turns

INFO = ModelInfo("clip_image", "image", "embedding", "error", 2, 64, {})
DEADLINE_S = 0.8
PHOTOS = 18
"""Of a tenth of a second each: one after the other they take more than twice the deadline."""


class Failed(grpc.RpcError):  # type: ignore[misc]
    """As grpc raises it."""

    def __init__(self, status: grpc.StatusCode, text: str) -> None:
        super().__init__()
        self._status, self._text = status, text

    def code(self) -> grpc.StatusCode:
        return self._status

    def details(self) -> str:
        return self._text


def answer() -> pb.ModelInferResponse:
    """One right row."""
    return pb.ModelInferResponse(
        outputs=[
            {"name": "embedding", "datatype": "FP32", "shape": [1, 2]},
            {"name": "error", "datatype": "BYTES", "shape": [1, 1]},
        ],
        raw_output_contents=[np.array([0.6, 0.8], np.float32).tobytes(), bytes(4)],
    )


def full() -> Failed:
    return Failed(grpc.StatusCode.UNAVAILABLE, "Exceeds maximum queue size")


Outcome = Callable[[], pb.ModelInferResponse]
"""What a request ends with, after its time."""


def silent() -> pb.ModelInferResponse:
    raise Failed(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")


def refusing() -> pb.ModelInferResponse:
    raise full()


def ask_sync(monkeypatch: pytest.MonkeyPatch, outcome: Outcome, seconds: float) -> list[Any]:
    """PHOTOS requests at once of a client that has one in flight; what each returned or raised."""

    def infer(*_: object, **__: object) -> pb.ModelInferResponse:
        time.sleep(seconds)
        return outcome()

    def request(_: int) -> Any:
        try:
            return client.request([b"photo"])
        except ServerUnavailable as error:
            return error

    with (
        ClipClient(deadline_s=DEADLINE_S, concurrency=1) as client,
        ThreadPoolExecutor(PHOTOS) as pool,
    ):
        client._info = INFO
        monkeypatch.setattr(client._calls, "infer", infer)
        return list(pool.map(request, range(PHOTOS)))


def ask_async(monkeypatch: pytest.MonkeyPatch, outcome: Outcome, seconds: float) -> list[Any]:
    """As ask_sync."""

    async def infer(*_: object, **__: object) -> pb.ModelInferResponse:
        await asyncio.sleep(seconds)
        return outcome()

    async def run() -> list[Any]:
        async with AsyncClipClient(deadline_s=DEADLINE_S, concurrency=1) as client:
            client._info = INFO
            monkeypatch.setattr(client._calls, "infer", infer)
            requests = (client.request([b"photo"]) for _ in range(PHOTOS))
            return await asyncio.gather(*requests, return_exceptions=True)

    return asyncio.run(run())


both = pytest.mark.parametrize("ask", [ask_sync, ask_async])
Ask = Callable[[pytest.MonkeyPatch, Outcome, float], list[Any]]


@both
def test_waiting_behind_ones_own_requests_costs_no_patience(
    monkeypatch: pytest.MonkeyPatch, ask: Ask
) -> None:
    begin = time.monotonic()
    answers = ask(monkeypatch, answer, 0.1)
    assert time.monotonic() - begin > 2 * DEADLINE_S
    assert [len(rows) for rows in answers] == [1] * PHOTOS


@both
def test_a_server_that_stays_busy_ends_in_server_busy_in_time(
    monkeypatch: pytest.MonkeyPatch, ask: Ask
) -> None:
    begin = time.monotonic()
    answers = ask(monkeypatch, refusing, 0.01)
    assert all(isinstance(each, ServerBusy) for each in answers), answers
    assert time.monotonic() - begin < 3 * DEADLINE_S


@both
def test_a_server_that_answers_nobody_is_not_waited_for_in_turn(
    monkeypatch: pytest.MonkeyPatch, ask: Ask
) -> None:
    begin = time.monotonic()
    answers = ask(monkeypatch, silent, DEADLINE_S)
    assert all(type(each) is ServerUnavailable for each in answers), answers
    assert time.monotonic() - begin < 4 * DEADLINE_S


def test_a_retry_goes_before_those_that_have_not_been_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first is refused once; behind all the others it would have no time left."""
    once = iter([full()])

    def outcome() -> pb.ModelInferResponse:
        for error in once:
            raise error
        return answer()

    for ask in (ask_sync, ask_async):
        once = iter([full()])
        assert [len(rows) for rows in ask(monkeypatch, outcome, 0.1)] == [1] * PHOTOS


def test_a_suspect_is_tried_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six requests at once; the connection breaks under the third, then goes on breaking under it alone."""
    lock, in_flight, company = threading.Lock(), [0], []

    def infer(request: bytes, _: float) -> pb.ModelInferResponse:
        with lock:
            in_flight[0] += 1
        time.sleep(0.05)
        with lock:
            present, in_flight[0] = in_flight[0], in_flight[0] - 1
        if b"poison" in request:
            company.append(present)
            raise Failed(grpc.StatusCode.UNAVAILABLE, "Socket closed")
        return answer()

    with ClipClient(concurrency=6, deadline_s=20) as client, ThreadPoolExecutor(6) as pool:
        client._info = INFO
        monkeypatch.setattr(client._calls, "infer", infer)
        photos = [b"good", b"good", b"poison", *[b"good"] * 20]
        rows = list(pool.map(lambda photo: client.request([photo])[0], photos))
    assert [isinstance(row, ItemError) for row in rows] == [photo == b"poison" for photo in photos]
    assert company[1:] == [1, 1], "alone, after the first time"


def test_of_a_group_that_a_server_dies_of_the_others_are_embedded(monkeypatch: pytest.MonkeyPatch) -> None:
    def infer(request: bytes, _: float) -> pb.ModelInferResponse:
        if b"poison" in request:
            raise Failed(grpc.StatusCode.UNAVAILABLE, "Socket closed")
        return answer()

    async def asked() -> Any:
        async def later(request: bytes, left: float) -> pb.ModelInferResponse:
            return infer(request, left)

        async with AsyncClipClient(deadline_s=20) as other:
            other._info = INFO
            monkeypatch.setattr(other._calls, "infer", later)
            return await other.request([b"poison", b"good"])

    with ClipClient(deadline_s=20) as client:
        client._info = INFO
        monkeypatch.setattr(client._calls, "infer", infer)
        for poison, good in (client.request([b"poison", b"good"]), asyncio.run(asked())):
            assert isinstance(poison, ItemError)
            assert "dies of it" in poison.text
            assert isinstance(good, np.ndarray)


def test_who_waits_to_be_alone_behind_its_like_loses_no_time_by_it() -> None:
    turns, order = Turns(4), []

    def suspect(name: str) -> None:
        end = turns.first(0.6, alone=True)
        assert end is not None, name
        order.append((name, end - time.monotonic()))
        time.sleep(0.4)
        turns.over(refused=False, answered=True)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(suspect, "abcd"))
    assert len(order) == 4
    assert min(left for _, left in order) > 0.3


def test_closing_ends_those_that_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    with ClipClient(deadline_s=60, concurrency=1) as client, ThreadPoolExecutor(2) as pool:
        client._info = INFO
        monkeypatch.setattr(client._calls, "infer", lambda *_: refusing())
        waiting = [pool.submit(client.request, [b"photo"]) for _ in range(2)]
        time.sleep(0.2)
        begin = time.monotonic()
        client.close()
        assert all(isinstance(each.exception(10), ServerUnavailable) for each in waiting)
        assert time.monotonic() - begin < 5


def test_many_photos_in_one_call_may_take_longer_than_one_requests_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def infer(*_: object, **__: object) -> pb.ModelInferResponse:
        await asyncio.sleep(0.1)
        return answer()

    async def run() -> Any:
        async with AsyncClipClient(deadline_s=0.3, concurrency=1, images_per_request=1) as client:
            client._info = INFO
            monkeypatch.setattr(client._calls, "infer", infer)
            return await client.embed([b"photo"] * 10)

    assert asyncio.run(run()).shape == (10, 2)


def test_when_one_part_of_a_call_fails_the_rest_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = []

    async def infer(*_: object, **__: object) -> pb.ModelInferResponse:
        sent.append(1)
        await asyncio.sleep(0)
        raise Failed(grpc.StatusCode.DEADLINE_EXCEEDED, "away")

    async def run() -> None:
        async with AsyncClipClient(concurrency=2, images_per_request=1) as client:
            client._info = INFO
            monkeypatch.setattr(client._calls, "infer", infer)
            with pytest.raises(ServerUnavailable):
                await client.embed([b"photo"] * 50)
            assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(run())
    assert len(sent) < 10
