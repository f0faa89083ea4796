"""Both clients over a transport that is a function: threads, tasks, and what ends them."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest

from clip_client import AsyncClipClient, ClipClient, ItemError, ServerUnavailable
from clip_client.requests.channel import Transport
from clip_client.requests.drivers import run, run_async
from clip_client.requests.failures import Failure
from clip_client.requests.flow import Call, Flow
from tests.unit.client.servers import (
    BROKEN,
    FULL,
    INFO,
    REFUSED,
    SILENT,
    AsyncFakeTransport,
    Failed,
    FakeTransport,
)


def test_a_suspect_is_isolated_among_threads() -> None:
    """Six requests at once; the connection breaks under the third, then goes on breaking under it alone."""
    lock, in_flight, company = threading.Lock(), [0], []

    def outcome(photos: list[bytes]) -> Failure | None:
        with lock:
            in_flight[0] += 1
        time.sleep(0.05)
        with lock:
            present, in_flight[0] = in_flight[0], in_flight[0] - 1
        if photos == [b"poison"]:
            company.append(present)
            return BROKEN
        return None

    with (
        ClipClient(concurrency=6, deadline_s=60, transport=FakeTransport(outcome)) as client,
        ThreadPoolExecutor(6) as pool,
    ):
        photos = [b"good", b"good", b"poison", *[b"good"] * 20]
        rows = list(pool.map(lambda photo: client.request([photo])[0], photos))
    assert [isinstance(row, ItemError) for row in rows] == [photo == b"poison" for photo in photos]
    assert company[1:] == [1, 1], "isolated, after the first time"


def poisoned(photos: list[bytes]) -> Failure | None:
    return BROKEN if b"poison" in photos else None


async def asked_async(photos: list[bytes]) -> Any:
    async with AsyncClipClient(deadline_s=60, transport=AsyncFakeTransport(poisoned)) as client:
        return await client.embed(photos, on_error="return")


def test_a_group_that_crashes_the_server_is_split() -> None:
    photos = [b"poison", b"good"]
    with ClipClient(deadline_s=60, transport=FakeTransport(poisoned)) as client:
        for poison, good in (
            client.embed(photos, on_error="return"),
            asyncio.run(asked_async(photos)),
        ):
            assert isinstance(poison, ItemError)
            assert isinstance(good, np.ndarray)


def test_closing_ends_waiting_requests() -> None:
    started = threading.Semaphore(0)

    def outcome(_: list[bytes]) -> Failure:
        started.release()
        return FULL

    client = ClipClient(deadline_s=600, concurrency=1, transport=FakeTransport(outcome))
    with client, ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(client.request, [b"photo"]) for _ in range(2)]
        assert started.acquire(timeout=60)
        client.close()
        assert all(isinstance(each.exception(60), ServerUnavailable) for each in waiting)


def test_a_closed_client_says_so() -> None:
    client = ClipClient(transport=FakeTransport(lambda _: None))
    client.embed([b"photo"])
    client.close()
    client.close()
    new = ClipClient("127.0.0.1:1")
    new.close()
    for call in (lambda: client.embed([b"photo"]), lambda: client.request([b"photo"]), lambda: new.info):
        with pytest.raises(ServerUnavailable, match="this client was closed"):
            call()


def test_closing_ends_an_embed_of_another_thread() -> None:
    """Its first request is in flight, the others wait in the pool."""
    started, go_on = threading.Event(), threading.Event()

    def outcome(_: list[bytes]) -> None:
        started.set()
        go_on.wait(60)

    client = ClipClient(concurrency=1, images_per_request=1, transport=FakeTransport(outcome))
    with ThreadPoolExecutor(2) as pool:
        embedding = pool.submit(client.embed, [b"photo"] * 4)
        assert started.wait(60)
        closing = pool.submit(client.close)
        assert client._engine.slots.closed.wait(60)
        go_on.set()
        assert isinstance(embedding.exception(60), ServerUnavailable)
        closing.result(60)


class ClosingTransport(AsyncFakeTransport):
    """As grpc.aio: close() cancels calls in flight, whose tasks are not cancelled."""

    def __init__(self) -> None:
        super().__init__(lambda _: None)
        self.in_flight: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.started = asyncio.Event()

    async def infer(self, request: bytes, timeout_s: float) -> Any:
        self.started.set()
        await self.in_flight
        return await super().infer(request, timeout_s)

    async def close(self) -> None:
        self.in_flight.cancel()


def test_a_call_that_begins_just_after_closing_says_so() -> None:
    """close() of another thread or task can come between a request's slot and its call."""
    with ClipClient("127.0.0.1:1") as client:
        (server,) = client._engine.servers.all
    assert run(_one_call(server.transport)).status is grpc.StatusCode.CANCELLED

    async def ask() -> Failure:
        async with AsyncClipClient("127.0.0.1:1") as client:
            (server,) = client._engine.servers.all
        return await run_async(_one_call(server.transport))

    assert asyncio.run(ask()).status is grpc.StatusCode.CANCELLED


def _one_call(transport: Transport) -> Flow[Failure]:
    answer: Failure = yield Call(transport.infer, b"", 1.0)
    return answer


def test_closing_does_not_look_like_the_cancellation_of_a_task() -> None:
    async def ask() -> None:
        transport = ClosingTransport()
        client = AsyncClipClient(deadline_s=600, transport=transport)
        embedding = asyncio.create_task(client.embed([b"photo"]))
        await transport.started.wait()
        await asyncio.gather(client.close(), client.close())
        with pytest.raises(ServerUnavailable, match="this client was closed"):
            await embedding
        with pytest.raises(ServerUnavailable, match="this client was closed"):
            await client.embed([b"photo"])

    asyncio.run(ask())


def test_a_task_can_still_be_cancelled() -> None:
    async def ask() -> None:
        transport = ClosingTransport()
        async with AsyncClipClient(deadline_s=600, transport=transport) as client:
            embedding = asyncio.create_task(client.embed([b"photo"]))
            await transport.started.wait()
            embedding.cancel()
            with pytest.raises(asyncio.CancelledError):
                await embedding

    asyncio.run(ask())


class Foreign(FakeTransport):
    """Raises errors without a status, as another library's transport may."""

    def infer(self, request: bytes, timeout_s: float) -> Any:
        del request, timeout_s
        raise grpc.RpcError("no route")


def test_an_error_without_a_status_is_an_error_of_the_photo() -> None:
    with ClipClient(transport=Foreign(lambda _: None)) as client:
        (error,) = client.embed([b"photo"], on_error="return")
    assert isinstance(error, ItemError)
    assert "[StatusCode.UNKNOWN] no route" in error.text


def test_a_second_event_loop_is_named() -> None:
    client = AsyncClipClient(transport=AsyncFakeTransport(lambda _: None))
    assert asyncio.run(client.embed([b"photo"])).shape == (1, 2)
    with pytest.raises(RuntimeError, match="first used in another event loop"):
        asyncio.run(client.embed([b"photo"]))


def test_the_models_description_is_short() -> None:
    info = dataclasses.replace(INFO, parameters={"model": "ViT-B-32", "reference_image": "A" * 5000})
    assert "'model': 'ViT-B-32'" in str(info)
    assert "<5000 characters>" in str(info)
    assert len(str(info)) < 500
    assert info.parameters["reference_image"] == "A" * 5000


class Starting(FakeTransport):
    """A server that listens at the third try."""

    tries = 0

    def config(self, model: str, timeout_s: float) -> Any:
        self.tries += 1
        if self.tries < 3:
            raise Failed(REFUSED)
        return super().config(model, timeout_s)


def test_a_server_that_does_not_listen_is_an_error_at_once_unless_it_is_waited_for() -> None:
    transport = Starting(lambda _: None)
    with ClipClient(transport=transport) as client:
        with pytest.raises(
            ServerUnavailable, match=r"cannot connect to 127.0.0.1:8001: nothing listens there"
        ):
            client.embed([b"photo"])
        assert transport.tries == 1
        assert client.wait(60).dimension == 2
        assert client.embed([b"photo"]).shape == (1, 2)


def test_closing_ends_waiting_tasks() -> None:
    async def ask() -> None:
        transport = AsyncFakeTransport(lambda _: FULL)
        client = AsyncClipClient(deadline_s=600, concurrency=1, transport=transport)
        waiting = [asyncio.create_task(client.request([b"photo"])) for _ in range(2)]
        await asyncio.sleep(0.1)
        await client.close()
        answers = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 60)
        assert all(isinstance(each, ServerUnavailable) for each in answers)

    asyncio.run(ask())


def test_a_cancelled_task_gives_its_slot_to_the_next() -> None:
    async def ask() -> Any:
        transport = AsyncFakeTransport(lambda _: None, seconds=0.1)
        async with AsyncClipClient(deadline_s=60, concurrency=1, transport=transport) as client:
            sending, waiting, last = (asyncio.create_task(client.request([b"photo"])) for _ in range(3))
            await asyncio.sleep(0.05)
            waiting.cancel()
            sending.cancel()
            return await asyncio.wait_for(last, 60)

    assert len(asyncio.run(ask())) == 1


def test_a_call_with_many_photos_may_take_longer_than_the_deadline_of_a_request() -> None:
    async def ask() -> Any:
        transport = AsyncFakeTransport(lambda _: None, seconds=0.1)
        options: dict[str, Any] = {"deadline_s": 2, "concurrency": 1, "images_per_request": 1}
        async with AsyncClipClient(transport=transport, **options) as client:
            return await client.embed([b"photo"] * 25)

    assert asyncio.run(ask()).shape == (25, 2)


def test_when_one_part_of_a_call_fails_the_rest_is_not_sent() -> None:
    sent = []

    def outcome(photos: list[bytes]) -> Failure:
        sent.append(photos)
        return SILENT

    async def ask() -> None:
        transport = AsyncFakeTransport(outcome)
        async with AsyncClipClient(concurrency=2, images_per_request=1, transport=transport) as client:
            with pytest.raises(ServerUnavailable):
                await client.embed([b"photo"] * 50)
            assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(ask())
    assert len(sent) < 10
