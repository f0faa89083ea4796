"""Whoever waits for a turn in this process loses no time for it, unless the server is the reason."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from clip_client import AsyncClipClient, ClipClient, ModelInfo, ServerBusy, ServerUnavailable

INFO = ModelInfo("clip_image", "image", "embedding", "error", 2, 64, {})
DEADLINE_S = 0.8
PHOTOS = 18
"""Of a tenth of a second each: one after the other they take more than twice the deadline."""


class Answer:
    """One right row, as tritonclient's InferResult gives it."""

    def as_numpy(self, name: str) -> Any:
        return np.array([[0.6, 0.8]], np.float32) if name == "embedding" else np.array([[b""]], np.object_)


def full() -> InferenceServerException:
    return InferenceServerException("Exceeds maximum queue size", "StatusCode.UNAVAILABLE")


Outcome = Callable[[], Answer]
"""What a request ends with, after its time."""


def silent() -> Answer:
    raise InferenceServerException("Deadline Exceeded", "StatusCode.DEADLINE_EXCEEDED")


def refusing() -> Answer:
    raise full()


def ask_sync(monkeypatch: pytest.MonkeyPatch, outcome: Outcome, seconds: float) -> list[Any]:
    """PHOTOS requests at once of a client that has one in flight; what each returned or raised."""

    def infer(*_: object, **__: object) -> Answer:
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
        monkeypatch.setattr(client._triton, "infer", infer)
        return list(pool.map(request, range(PHOTOS)))


def ask_async(monkeypatch: pytest.MonkeyPatch, outcome: Outcome, seconds: float) -> list[Any]:
    """As ask_sync."""

    async def infer(*_: object, **__: object) -> Answer:
        await asyncio.sleep(seconds)
        return outcome()

    async def run() -> list[Any]:
        async with AsyncClipClient(deadline_s=DEADLINE_S, concurrency=1) as client:
            client._info = INFO
            monkeypatch.setattr(client._triton, "infer", infer)
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
    answers = ask(monkeypatch, Answer, 0.1)
    assert time.monotonic() - begin > 2 * DEADLINE_S
    assert [len(answer) for answer in answers] == [1] * PHOTOS


@both
def test_a_server_that_stays_busy_ends_in_server_busy_in_time(
    monkeypatch: pytest.MonkeyPatch, ask: Ask
) -> None:
    begin = time.monotonic()
    answers = ask(monkeypatch, refusing, 0.01)
    assert all(isinstance(answer, ServerBusy) for answer in answers), answers
    assert time.monotonic() - begin < 3 * DEADLINE_S


@both
def test_a_server_that_answers_nobody_is_not_waited_for_in_turn(
    monkeypatch: pytest.MonkeyPatch, ask: Ask
) -> None:
    begin = time.monotonic()
    answers = ask(monkeypatch, silent, DEADLINE_S)
    assert all(type(answer) is ServerUnavailable for answer in answers), answers
    assert time.monotonic() - begin < 4 * DEADLINE_S


def test_a_retry_goes_before_those_that_have_not_been_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first is refused once; behind all the others it would have no time left."""
    once = iter([full()])

    def outcome() -> Answer:
        for error in once:
            raise error
        return Answer()

    for ask in (ask_sync, ask_async):
        once = iter([full()])
        assert [len(answer) for answer in ask(monkeypatch, outcome, 0.1)] == [1] * PHOTOS


def test_many_photos_in_one_call_may_take_longer_than_one_requests_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def infer(*_: object, **__: object) -> Answer:
        await asyncio.sleep(0.1)
        return Answer()

    async def run() -> Any:
        async with AsyncClipClient(deadline_s=0.3, concurrency=1, images_per_request=1) as client:
            client._info = INFO
            monkeypatch.setattr(client._triton, "infer", infer)
            return await client.embed([b"photo"] * 10)

    assert asyncio.run(run()).shape == (10, 2)


def test_when_one_part_of_a_call_fails_the_rest_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = []

    async def infer(*_: object, **__: object) -> Answer:
        sent.append(1)
        await asyncio.sleep(0)
        raise InferenceServerException("away", "StatusCode.DEADLINE_EXCEEDED")

    async def run() -> None:
        async with AsyncClipClient(concurrency=2, images_per_request=1) as client:
            client._info = INFO
            monkeypatch.setattr(client._triton, "infer", infer)
            with pytest.raises(ServerUnavailable):
                await client.embed([b"photo"] * 50)
            assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(run())
    assert len(sent) < 10
