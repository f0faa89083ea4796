"""AsyncClipClient: ClipClient's counterpart for asyncio."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeVar, overload

from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException

from clip_client import defaults, transport
from clip_client._google import AsyncRetry, RetryError
from clip_client.client import busy, denied, late, read_photo, unavailable
from clip_client.errors import ItemError, ServerMismatch
from clip_client.pace import Pace
from clip_client.source import ObjectInfo, Source, open_source
from clip_client.stream import load
from clip_client.timings import ServerTimes, TimedAnswer, Timings, server_times
from clip_client.transport import ConnectionOptions, Embedding, ModelInfo

T = TypeVar("T")


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
        self._triton = InferenceServerClient(url, **self._connection.arguments())
        self._pace = Pace(concurrency)
        turns = asyncio.Lock()
        self._first, self._again = asyncio.Condition(turns), asyncio.Condition(turns)
        self._sending = asyncio.Semaphore(concurrency)
        self._info: ModelInfo | None = None
        self._timings: Timings | None = None

    async def close(self) -> None:
        await self._triton.close()

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

            async def ask() -> Any:
                return await self._triton.get_model_config(
                    self._model, headers=self._connection.headers, client_timeout=self._deadline_s
                )

            try:
                self._info = ModelInfo.from_config((await self._retrying(ask)).config)
            except InferenceServerException as error:
                raise ServerMismatch(
                    f"the server at {self.url} does not serve {self._model}: {error}"
                ) from error
        return self._info

    @overload
    async def embed(self, images: Sequence[bytes | Path | str]) -> Embedding: ...
    @overload
    async def embed(
        self, images: Sequence[bytes | Path | str], *, on_error: Literal["raise"]
    ) -> Embedding: ...
    @overload
    async def embed(
        self, images: Sequence[bytes | Path | str], *, on_error: Literal["return"]
    ) -> list[Embedding | ItemError]: ...

    async def embed(
        self, images: Sequence[bytes | Path | str], *, on_error: Literal["raise", "return"] = "raise"
    ) -> Embedding | list[Embedding | ItemError]:
        """As ClipClient.embed: float32 [N, D], or with `on_error="return"` an entry a photo."""
        info = await self.info()
        read = [await asyncio.to_thread(read_photo, image) for image in images]
        results: list[Any] = list(read)
        readable = [index for index, data in enumerate(read) if isinstance(data, bytes)]
        photos = [data for data in read if isinstance(data, bytes)]
        limit = max(1, min(self._images_per_request, info.max_batch_size))
        groups = list(transport.chunks(photos, limit, self._bytes_per_request))
        tasks = [asyncio.create_task(self._send([photos[i] for i in group])) for group in groups]
        try:
            answers = await asyncio.gather(*tasks)
        finally:
            await _cancel(tasks)
        for group, answer in zip(groups, answers, strict=True):
            for index, entry in zip(group, answer, strict=True):
                results[readable[index]] = entry
        return transport.collect(results, info, on_error)

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
        try:
            data = await asyncio.to_thread(load, source, item, on_load)
        except ItemError as error:
            return error
        return (await self.request([data]))[0]

    async def _send(self, photos: Sequence[bytes]) -> list[Embedding | ItemError]:
        """request(), of which no more than `concurrency` at a time wait for the server's pace."""
        async with self._sending:
            return await self.request(photos)

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
        headers, timeout = self._connection.headers, self._deadline_s
        try:
            answers = [
                await self._triton.get_inference_statistics(step, headers=headers, client_timeout=timeout)
                for step in (await self.info()).steps
            ]
        except InferenceServerException:
            return {}
        return server_times(answers)

    async def request(self, photos: Sequence[bytes]) -> list[Embedding | ItemError]:
        """One request, with retries: one entry a photo. Raises ServerUnavailable."""
        info = await self.info()
        timings = self._timings
        inputs, outputs = transport.build_request(info, photos, timed=timings is not None)
        begin, tries = time.perf_counter(), itertools.count()
        end = await self._first_turn()

        async def infer() -> Any:
            return await self._triton.infer(
                info.name,
                inputs,
                outputs=outputs,
                headers=self._connection.headers,
                client_timeout=max(0.001, end - time.monotonic()),
            )

        async def in_turn() -> Any:
            if next(tries):
                await self._another_turn(end)
            return await self._answered(infer)

        try:
            result = await self._retrying(in_turn, end - time.monotonic())
            answer = TimedAnswer.of(info, result, time.perf_counter() - begin)
            if timings is not None:
                timings.add(answer)
            return answer.outcomes
        except InferenceServerException as error:
            return transport.refused(error, len(photos))

    async def _first_turn(self) -> float:
        """As ClipClient's: waits until the pace allows another request, returns when its time is up."""
        ready = time.monotonic()
        async with self._first:
            while (left := self._pace.waits_since(ready) + self._deadline_s - time.monotonic()) > 0:
                if self._pace.is_open:
                    self._pace.begin()
                    return time.monotonic() + left
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._first.wait(), left)
            raise late(self.url, self._deadline_s, self._pace)

    async def _another_turn(self, end: float) -> None:
        async with self._again:
            try:
                waiting = self._again.wait_for(lambda: self._pace.is_open)
                await asyncio.wait_for(waiting, max(0.0, end - time.monotonic()))
            except asyncio.TimeoutError as error:
                raise busy(self.url, self._deadline_s) from error
            self._pace.begin()

    async def _answered(self, call: Callable[[], Awaitable[T]]) -> T:
        """What `call` returns or raises; then its turn is over."""
        refused = answered = False
        try:
            result = await call()
            answered = True
            return result
        except InferenceServerException as error:
            refused, answered = transport.is_refusal(error), not transport.is_away(error)
            raise
        finally:
            self._pace.end(refused=refused, answered=answered)
            async with self._first:
                for waiting in (self._again, self._first):
                    waiting.notify(2)  # one for the place, one should the limit have grown

    async def _retrying(self, call: Callable[[], Awaitable[T]], left_s: float | None = None) -> T:
        """`left_s`: of the deadline, where some of it is over."""
        retry = AsyncRetry(**transport.retry_arguments(self._deadline_s if left_s is None else left_s))
        try:
            return await retry(call)()
        except RetryError as error:
            raise unavailable(self.url, self._deadline_s, error.cause) from error
        except InferenceServerException as error:
            if transport.is_denied(error):
                raise denied(self.url, error) from error
            if transport.is_away(error):
                raise unavailable(self.url, self._deadline_s, error) from error
            raise


async def _cancel(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Ends what still runs, and waits until it has ended."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
