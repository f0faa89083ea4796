"""Pixels of calls that wait are packed into one request; nothing waits for pixels that may not come."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from clip_client import PhotoResult, ServerUnavailable
from clip_client.requests.drivers import run, run_async
from clip_client.requests.flow import Call, Flow
from clip_client.requests.packing import PixelPacker
from clip_client.requests.pixels import EncoderInfo
from clip_client.timings import TimedAnswer
from testing.waiting import PATIENCE_S, wait_until

_ENCODER = EncoderInfo("encoder", "pixels", "embedding", "", 2, 4, {}, pixels=(1, 1, 3))


class Engine:
    """A RetryEngine whose requests end when `gate` opens; photos that say "fail" have no server."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.requests: list[list[bytes]] = []

    def request(self, info: EncoderInfo, pixels: Sequence[bytes]) -> Flow[TimedAnswer]:
        assert info is _ENCODER
        self.requests.append(list(pixels))
        assert (yield Call(self.pass_gate, None, PATIENCE_S))
        if b"fail" in pixels:
            raise ServerUnavailable("gone")
        return TimedAnswer([PhotoResult(format=each.decode()) for each in pixels], 1.0)

    def pass_gate(self, argument: None, timeout_s: float) -> bool:
        del argument
        return self.gate.wait(timeout_s)


def packer_of(engine: Any, senders: int, event: Any = threading.Event) -> PixelPacker:
    return PixelPacker(engine, _ENCODER, senders, event)


def ask(packer: PixelPacker, *pixels: bytes) -> list[str | None]:
    return [result.format for result in run(packer.request(pixels)).results]


def waiting(packer: PixelPacker) -> int:
    return len(packer._waiting)


def test_calls_that_wait_share_a_request_and_each_gets_its_own_answers() -> None:
    engine = Engine()
    packer = packer_of(engine, 1)
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(ask, packer, b"a")
        wait_until(lambda: len(engine.requests) == 1, "the first request")
        others = []
        for number, pixels in enumerate(((b"b", b"c"), (b"d",), (b"e", b"f")), 1):
            others.append(pool.submit(ask, packer, *pixels))
            wait_until(lambda number=number: waiting(packer) == number, "a call that waits")  # type: ignore[misc]
        engine.gate.set()
        assert first.result(PATIENCE_S) == ["a"]
        assert [each.result(PATIENCE_S) for each in others] == [["b", "c"], ["d"], ["e", "f"]]
    assert engine.requests == [[b"a"], [b"b", b"c", b"d"], [b"e", b"f"]], "a batch is at most 4"


def test_fewer_calls_than_senders_wait_for_nothing() -> None:
    engine = Engine()
    packer = packer_of(engine, 2)
    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(ask, packer, each) for each in (b"a", b"b")]
        wait_until(lambda: len(engine.requests) == 2, "two requests")
        engine.gate.set()
        assert [each.result(PATIENCE_S) for each in calls] == [["a"], ["b"]]


def test_a_further_request_has_as_many_photos_as_the_smallest_in_flight() -> None:
    engine = Engine()
    packer = packer_of(engine, 2)
    with ThreadPoolExecutor(3) as pool:
        calls = [pool.submit(ask, packer, b"a", b"b")]
        wait_until(lambda: len(engine.requests) == 1, "the first request")
        calls.append(pool.submit(ask, packer, b"c"))
        wait_until(lambda: waiting(packer) == 1, "a call that waits")
        assert len(engine.requests) == 1
        calls.append(pool.submit(ask, packer, b"d"))
        wait_until(lambda: len(engine.requests) == 2, "the second request")
        engine.gate.set()
        assert [each.result(PATIENCE_S) for each in calls] == [["a", "b"], ["c"], ["d"]]
    assert engine.requests[1] == [b"c", b"d"]


def test_an_error_is_that_of_every_call_in_the_request_and_of_no_other() -> None:
    engine = Engine()
    packer = packer_of(engine, 1)
    with ThreadPoolExecutor(5) as pool:
        calls = [pool.submit(ask, packer, b"a")]
        wait_until(lambda: len(engine.requests) == 1, "the first request")
        for number, pixels in enumerate((b"fail", b"b", b"c", b"d"), 1):
            calls.append(pool.submit(ask, packer, pixels))
            wait_until(lambda number=number: waiting(packer) == number, "a call that waits")  # type: ignore[misc]
        calls.append(pool.submit(ask, packer, b"e"))
        engine.gate.set()
        assert calls[0].result(PATIENCE_S) == ["a"]
        for each in calls[1:5]:
            with pytest.raises(ServerUnavailable, match="gone"):
                each.result(PATIENCE_S)
        assert calls[5].result(PATIENCE_S) == ["e"]


class AsyncEngine(Engine):
    def __init__(self) -> None:
        super().__init__()
        self.opened = asyncio.Event()

    async def pass_gate(self, argument: None, timeout_s: float) -> bool:  # type: ignore[override]
        del argument
        await asyncio.wait_for(self.opened.wait(), timeout_s)
        return True


def test_a_call_that_is_given_up_takes_no_other_with_it() -> None:
    """Whether it is sending for others, has its turn, waits, or is in another's request."""

    async def main() -> None:
        engine = AsyncEngine()
        packer = packer_of(engine, 1, asyncio.Event)

        def call(*pixels: bytes) -> asyncio.Task[TimedAnswer]:
            return asyncio.create_task(run_async(packer.request(pixels)))

        alone = call(b"a")
        await asyncio.sleep(0)
        calls = [call(each) for each in (b"b", b"c", b"d", b"e", b"f")]
        await asyncio.sleep(0.01)
        assert engine.requests == [[b"a"]]
        alone.cancel()  # b sends b, c, d, e
        calls[4].cancel()
        await asyncio.sleep(0.01)
        assert engine.requests[1:] == [[b"b", b"c", b"d", b"e"]]
        calls[2].cancel()
        await asyncio.sleep(0.01)
        calls[0].cancel()  # c sends c, e: d has left meanwhile
        await asyncio.sleep(0.01)
        assert engine.requests[2:] == [[b"c", b"e"]]
        engine.opened.set()
        for task, name in ((calls[1], "c"), (calls[3], "e"), (call(b"g"), "g")):
            (result,) = (await asyncio.wait_for(task, PATIENCE_S)).results
            assert result.format == name

    asyncio.run(main())
