"""AsyncClipClient: ClipClient's counterpart for asyncio."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import cached_property
from types import TracebackType
from typing import Any, ClassVar, Literal, overload

import grpc.aio

from clip_client import defaults
from clip_client.client import MAX_DEADLINE_S, NO_TEXT, BaseClient, positive
from clip_client.errors import ItemError
from clip_client.photos import Image, as_list, read_photo
from clip_client.requests import wire
from clip_client.requests.drivers import run_async
from clip_client.requests.placements import wait_for_async
from clip_client.requests.wire import Embedding, ModelInfo
from clip_client.results import PhotoResult
from clip_client.sources.base import ObjectInfo, Source
from clip_client.stream import load
from clip_client.timings import TimedAnswer, Timings


class AsyncClipClient(BaseClient):
    """A connection to clip-triton servers for asyncio; close it, or use `async with`."""

    _grpc: ClassVar[Any] = grpc.aio
    _event: ClassVar[type[Any]] = asyncio.Event
    _wait_for: ClassVar[Any] = staticmethod(wait_for_async)
    _loop: asyncio.AbstractEventLoop | None = None

    @cached_property
    def _sending(self) -> asyncio.Semaphore:
        """Limits the requests whose photos are in memory."""
        return asyncio.Semaphore(self._concurrency)

    async def close(self) -> None:
        """Ends requests in flight and waiting ones."""
        self._close_waits()
        for transport in self._transports:
            await transport.close()

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
        """Like ClipClient.info."""
        self._require_own_loop()
        if self._info is None:
            with self._saying_if_closed():
                self._info = await run_async(self._connect(self._deadline_s))
        return self._info

    async def wait(self, deadline_s: float) -> ModelInfo:
        """Like ClipClient.wait(): waits at most `deadline_s` for a server that is still starting."""
        self._require_own_loop()
        if self._info is None:
            deadline_s = positive("deadline_s", deadline_s, MAX_DEADLINE_S)
            with self._saying_if_closed():
                self._info = await run_async(self._connect(deadline_s, starting=True))
        return self._info

    def _require_own_loop(self) -> None:
        """Raises RuntimeError in another event loop than that of the first call: gRPC belongs to that one."""
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        if self._loop is not loop:
            raise RuntimeError(
                "this AsyncClipClient was first used in another event loop. Create one in each asyncio.run()"
            )

    @overload
    async def embed(self, images: Iterable[Image]) -> Embedding: ...
    @overload
    async def embed(self, images: Iterable[Image], *, on_error: Literal["raise"]) -> Embedding: ...
    @overload
    async def embed(
        self, images: Iterable[Image], *, on_error: Literal["return"]
    ) -> list[Embedding | ItemError]: ...

    async def embed(
        self, images: Iterable[Image], *, on_error: Literal["raise", "return"] = "raise"
    ) -> Embedding | list[Embedding | ItemError]:
        """Like ClipClient.embed(): float32 [N, D], or with `on_error="return"` one entry per photo."""
        return wire.collect(await self.embed_photos(images), await self.info(), on_error)

    async def embed_photos(self, images: Iterable[Image]) -> list[PhotoResult]:
        """Like ClipClient.embed_photos(): a PhotoResult per photo, with its notices and facts."""
        self._engine.require_open()
        photos = as_list(images)
        info = await self.info()
        tasks = [asyncio.create_task(self._embed_group(group)) for group in self._groups(photos, info)]
        try:
            answers = await asyncio.gather(*tasks)
        finally:
            await _cancel(tasks)
        return [result for answer in answers for result in answer]

    async def text_info(self) -> ModelInfo:
        """Like ClipClient.text_info."""
        if self._text_info is None:
            flow = self._engine.model_info(self._text_model, self._deadline_s, NO_TEXT)
            with self._saying_if_closed():
                self._text_info = await run_async(flow)
        return self._text_info

    async def embed_text(self, texts: Sequence[str]) -> Embedding:
        """Like ClipClient.embed_text(): float32 [N, D]."""
        return wire.stacked(await self.embed_text_results(texts), await self.text_info())

    async def embed_text_results(self, texts: Sequence[str]) -> list[PhotoResult]:
        """Like ClipClient.embed_text_results(): each text's own error and notices."""
        self._engine.require_open()
        info = await self.text_info()
        results: list[PhotoResult] = []
        for group in self._text_groups(texts, info):
            with self._saying_if_closed():
                results += (await run_async(self._engine.request(info, group))).results
        return results

    async def _embed_group(self, images: Sequence[Image]) -> list[PhotoResult]:
        """Embeds one request's images; files are read just before it is sent."""
        info = await self.info()
        async with self._sending:
            read = [await self._in_thread(read_photo, info, image) for image in images]
            photos = [entry for entry in read if isinstance(entry, bytes)]
            return wire.filled(read, await self._request(photos) if photos else [])

    async def embed_objects(
        self, uri: str | os.PathLike[str] | Source, *, bytes_in_flight: int = defaults.BYTES_IN_FLIGHT
    ) -> AsyncIterator[tuple[str, Embedding | ItemError]]:
        """Like ClipClient.embed_objects(): in listing order, at most `bytes_in_flight` bytes in memory."""
        await self.info()
        source = self._open(uri)
        listing = source.list()
        pending: list[tuple[ObjectInfo, asyncio.Task[Embedding | ItemError]]] = []
        try:
            while True:
                item = await self._in_thread(next, listing, None)
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
        info = await self.info()
        if error := info.too_large(item.size):
            return error
        try:
            _, data = await self._in_thread(load, source, item, info.unpacked_bytes, on_load)
        except ItemError as error:
            return error
        async with self._sending:
            return (await self._request([data]))[0].outcome

    async def _in_thread(self, function: Any, *arguments: Any) -> Any:
        """Runs `function` in one of this client's `concurrency` threads."""
        with self._saying_if_closed():
            return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)

    @contextmanager
    def _saying_if_closed(self) -> Iterator[None]:
        """Raises ServerUnavailable for what close() causes: grpc.aio and the pool cancel what they run.

        Without this, the caller's task would look cancelled.
        """
        try:
            yield
        except (asyncio.CancelledError, RuntimeError):  # RuntimeError: the pool takes nothing more
            if not _is_cancelled():
                self._engine.require_open()
            raise

    @asynccontextmanager
    async def timed(self) -> AsyncIterator[Timings]:
        """Like ClipClient.timed(): measures the stages of everything that this client does within the block.

        async with client.timed() as timings:
            await client.embed(photos)
        print(table(timings.stages()))
        """
        timings, info = Timings(), await self.info()
        before = await run_async(self._statistics(info))
        self._timings = timings
        try:
            yield timings
        finally:
            self._timings = None
            after = await run_async(self._statistics(info)) if before else {}
            timings.set_server(before, after)

    async def request(self, photos: Sequence[bytes]) -> list[Embedding | ItemError]:
        """Sends one request, with retries. Returns one entry per photo; raises ServerUnavailable."""
        return [result.outcome for result in await self._request(photos)]

    async def _request(self, photos: Sequence[bytes]) -> list[PhotoResult]:
        timings = self._timings
        flow = self._embedding(await self.info(), photos, timed=timings is not None)
        with self._saying_if_closed():
            answer = await run_async(flow)
        if timings is not None:
            timings.add(answer)
        return answer.results

    async def request_timed(self, photos: Sequence[bytes], request_id: str = "") -> TimedAnswer:
        """Like request(), with its times. `request_id` names it in the server's traces."""
        flow = self._embedding(await self.info(), photos, timed=True, request_id=request_id)
        with self._saying_if_closed():
            return await run_async(flow)


def _is_cancelled() -> bool:
    """Whether this task was cancelled. Python 3.10 cannot say: close() counts as the cause if called."""
    cancelling = getattr(asyncio.current_task(), "cancelling", None)
    return cancelling is not None and cancelling() > 0


async def _cancel(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Cancels the running tasks, and waits until they have ended."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
