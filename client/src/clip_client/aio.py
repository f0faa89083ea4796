"""AsyncClipClient: ClipClient's counterpart for asyncio."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Literal, overload

import grpc
from tritonclient.grpc import InferResult

from clip_client import defaults
from clip_client.errors import ItemError, ServerMismatch
from clip_client.requests import wire
from clip_client.requests.channel import Calls, ConnectionOptions
from clip_client.requests.failures import late, refused, unavailable
from clip_client.requests.in_flight import AsyncTurns
from clip_client.requests.retry import Attempts, Deaths, Failure, Verdict
from clip_client.requests.wire import Embedding, Image, ModelInfo
from clip_client.sources import open_source
from clip_client.sources.base import ObjectInfo, Source
from clip_client.stream import load
from clip_client.timings import ServerTimes, TimedAnswer, Timings, server_times


class AsyncClipClient:
    """A connection to a clip-triton server, with ClipClient's semantics; close it, or use `async with`."""

    def __init__(
        self,
        url: str = defaults.URL,
        *,
        model: str = defaults.MODEL,
        connection: ConnectionOptions | None = None,
        deadline_s: float = defaults.DEADLINE_S,
        concurrency: int = defaults.CONCURRENCY,
        images_per_request: int = defaults.IMAGES_PER_REQUEST,
        bytes_per_request: int = defaults.BYTES_PER_REQUEST,
    ) -> None:
        self.url = url
        self._model = model
        self._connection = connection or ConnectionOptions()
        self._deadline_s = deadline_s
        self._concurrency = concurrency
        self._images_per_request = images_per_request
        self._bytes_per_request = bytes_per_request
        self._channel = self._connection.async_channel(url)
        self._calls = Calls(self._channel, self._connection.headers)
        self._turns = AsyncTurns(concurrency)
        self._deaths = Deaths()
        self._sending = asyncio.Semaphore(concurrency)
        self._loaders = ThreadPoolExecutor(concurrency, "clip-client-load")
        self._info: ModelInfo | None = None
        self._timings: Timings | None = None

    async def close(self) -> None:
        """Ends what is in flight."""
        await self._channel.close()
        self._loaders.shutdown(wait=False, cancel_futures=True)

    async def __aenter__(self) -> AsyncClipClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def info(self) -> ModelInfo:
        """The model's names, dimension, largest batch and parameters, asked for once."""
        if self._info is None:
            self._info = await self._read_info()
        return self._info

    async def _read_info(self) -> ModelInfo:
        end, attempts = time.monotonic() + self._deadline_s, Attempts(Deaths())
        while True:
            try:
                answer = await self._calls.config(self._model, max(0.001, end - time.monotonic()))
                return ModelInfo.from_config(answer.config)
            except grpc.RpcError as error:
                failure = Failure.of(error)
            pause = attempts.pause_s()
            if not failure.is_passing or time.monotonic() + pause > end:
                raise unavailable(self.url, self._deadline_s, failure) or ServerMismatch(
                    f"the server at {self.url} does not serve {self._model}: {failure}"
                )
            await asyncio.sleep(pause)

    @overload
    async def embed(self, images: Sequence[Image]) -> Embedding: ...
    @overload
    async def embed(self, images: Sequence[Image], *, on_error: Literal["raise"]) -> Embedding: ...
    @overload
    async def embed(
        self, images: Sequence[Image], *, on_error: Literal["return"]
    ) -> list[Embedding | ItemError]: ...

    async def embed(
        self, images: Sequence[Image], *, on_error: Literal["raise", "return"] = "raise"
    ) -> Embedding | list[Embedding | ItemError]:
        """As ClipClient.embed: float32 [N, D], or with `on_error="return"` an entry a photo."""
        info = await self.info()
        limit = max(1, min(self._images_per_request, info.max_batch_size))
        sizes = [wire.size_of(image) for image in images]
        groups = list(wire.chunks(sizes, limit, self._bytes_per_request))
        tasks = [asyncio.create_task(self._embed_group([images[i] for i in group])) for group in groups]
        try:
            answers = await asyncio.gather(*tasks)
        finally:
            await _cancel(tasks)
        return wire.collect([entry for answer in answers for entry in answer], info, on_error)

    async def _embed_group(self, images: Sequence[Image]) -> list[Embedding | ItemError]:
        """In one request; no more than `concurrency` at a time have read their files."""
        info = await self.info()
        async with self._sending:
            read = [await self._in_thread(wire.read_photo, info, image) for image in images]
            photos = [entry for entry in read if isinstance(entry, bytes)]
            return wire.filled(read, await self.request(photos) if photos else [])

    async def embed_objects(
        self, uri: str | Source, *, bytes_in_flight: int = defaults.BYTES_IN_FLIGHT
    ) -> AsyncIterator[tuple[str, Embedding | ItemError]]:
        """As ClipClient.embed_objects, in the listing's order, `bytes_in_flight` bytes at most."""
        await self.info()
        source = open_source(uri, self._concurrency) if isinstance(uri, str) else uri
        listing = source.list()
        pending: list[tuple[ObjectInfo, asyncio.Task[Embedding | ItemError]]] = []
        try:
            while True:
                item = await asyncio.to_thread(next, listing, None)
                held = sum(known.size for known, task in pending if not task.done())
                while pending and (
                    item is None
                    or held + item.size > bytes_in_flight
                    or len(pending) >= self._concurrency * 4
                ):
                    known, task = pending.pop(0)
                    yield known.name, await task
                    held = sum(other.size for other, waiting in pending if not waiting.done())
                if item is None:
                    return
                pending.append((item, asyncio.create_task(self._load_and_embed(source, item))))
        finally:
            await _cancel([task for _, task in pending])

    async def _load_and_embed(self, source: Source, item: ObjectInfo) -> Embedding | ItemError:
        on_load = self._timings.add_load if self._timings is not None else None
        if error := (await self.info()).too_large(item.size):
            return error
        try:
            data = await self._in_thread(load, source, item, on_load)
        except ItemError as error:
            return error
        async with self._sending:
            return (await self.request([data]))[0]

    async def _in_thread(self, function: Any, *arguments: Any) -> Any:
        """`concurrency` at a time, which asyncio's own threads are not."""
        return await asyncio.get_running_loop().run_in_executor(self._loaders, function, *arguments)

    @asynccontextmanager
    async def timed(self) -> AsyncIterator[Timings]:
        """As ClipClient.timed: measures the stages of all that this client does within the block.

        async with client.timed() as timings:
            await client.embed(photos)
        print(table(timings.stages()))
        """
        timings, before = Timings(), await self._server_times()
        self._timings = timings
        try:
            yield timings
        finally:
            self._timings = None
            timings.set_server(before, await self._server_times() if before else {})

    async def _server_times(self) -> dict[str, ServerTimes]:
        """Of each composing model; empty where the server keeps its statistics to itself."""
        steps = (await self.info()).steps
        try:
            return server_times([await self._calls.statistics(step, self._deadline_s) for step in steps])
        except grpc.RpcError:
            return {}

    async def request(self, photos: Sequence[bytes]) -> list[Embedding | ItemError]:
        """One request, with retries: one entry a photo. Raises ServerUnavailable."""
        timings = self._timings
        answer = await self._request(photos, timed=timings is not None)
        if timings is not None:
            timings.add(answer)
        return answer.outcomes

    async def request_timed(self, photos: Sequence[bytes], request_id: str = "") -> TimedAnswer:
        """As request(), with what it took; `request_id` is its name in the server's traces."""
        return await self._request(photos, timed=True, request_id=request_id)

    async def _request(
        self, photos: Sequence[bytes], *, timed: bool = False, request_id: str = "", alone: bool = False
    ) -> TimedAnswer:
        """`alone`: nothing else is to be in flight, as one of these photos may be a server's death."""
        begin, info = time.perf_counter(), await self.info()
        data = wire.request_bytes(info, photos, timed=timed, request_id=request_id)
        # A group's death is proof enough to try each photo by itself.
        proof = defaults.MAX_DEATHS if len(photos) == 1 else 1
        attempts = Attempts(self._deaths, alone=alone, proof=proof)
        answer, waited_s = await self._answer(data, attempts)
        if not isinstance(answer, Failure):
            return TimedAnswer.of(info, InferResult(answer), time.perf_counter() - begin, waited_s)
        if answer.is_death and len(photos) > 1:  # of one of them
            rows = [row for photo in photos for row in (await self._request([photo], alone=True)).outcomes]
        else:
            rows = [*refused(answer, len(photos))]
        return TimedAnswer(rows, time.perf_counter() - begin, None, waited_s)

    async def _answer(self, request: bytes, attempts: Attempts) -> tuple[Any, float]:
        """As ClipClient's: the server's answer, or the Failure that is about these photos."""
        begin, end = time.perf_counter(), await self._first_turn(attempts)
        while True:
            waited_s, alone = time.perf_counter() - begin, attempts.alone
            answer = await self._try(request, end, attempts)
            if not isinstance(answer, Failure) or attempts.verdict is Verdict.BLAME:
                return answer, waited_s
            pause = attempts.pause_s()
            if attempts.verdict is Verdict.RETRY and time.monotonic() + pause < end:
                await asyncio.sleep(pause)
                if attempts.alone and not alone:  # its time begins anew: it has to wait for its like
                    end = await self._first_turn(attempts)
                    continue
                if await self._turns.again(end, alone=attempts.alone):
                    continue
            if error := unavailable(self.url, self._deadline_s, answer):
                raise error
            return answer, waited_s

    async def _first_turn(self, attempts: Attempts) -> float:
        end = await self._turns.first(self._deadline_s, alone=attempts.alone)
        if end is None:
            raise late(self.url, self._deadline_s, self._turns.pace)
        return end

    async def _try(self, request: bytes, end: float, attempts: Attempts) -> Any:
        """The server's answer, or a Failure that is judged; then the turn is over."""
        refused = answered = False
        try:
            answer = await self._calls.infer(request, max(0.001, end - time.monotonic()))
            answered = True
            return answer
        except grpc.RpcError as error:
            failure = Failure.of(error)
            attempts.judge(failure)
            refused, answered = failure.is_refusal, not failure.is_away
            return failure
        finally:
            await self._turns.over(refused=refused, answered=answered)


async def _cancel(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Ends what still runs, and waits until it has ended."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
