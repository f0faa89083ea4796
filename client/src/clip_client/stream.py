"""Loads and embeds many objects at the same time, in order, with a limit on the bytes held in memory."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import CancelledError, Future

from clip_client import defaults
from clip_client.errors import ItemError
from clip_client.results import PhotoResult
from clip_client.sinks.base import EmbeddedObject
from clip_client.sources.base import ObjectInfo, Source, crc32c
from clip_client.sources.encodings import decoded
from clip_client.threads import DaemonExecutor

_WINDOW = 4
"""Objects per worker that are submitted ahead of the next one to be yielded."""


class _ByteBudget:
    """Blocks workers while too many bytes are in flight. A single object of any size always passes."""

    def __init__(self, limit: int) -> None:
        self._limit, self._used = limit, 0
        self._changed = threading.Condition()

    def take(self, count: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._used == 0 or self._used + count <= self._limit)
            self._used += count

    def give(self, count: int) -> None:
        with self._changed:
            self._used -= count
            self._changed.notify_all()


class _InFlight:
    """Counts requests, so that their end can be waited for."""

    def __init__(self) -> None:
        self._count = 0
        self._changed = threading.Condition()

    def __enter__(self) -> None:
        with self._changed:
            self._count += 1

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._count -= 1
            self._changed.notify_all()

    def wait(self, seconds: float) -> None:
        """Returns when there are none, and at the latest after `seconds`."""
        with self._changed:
            self._changed.wait_for(lambda: self._count == 0, seconds)


def load(
    source: Source, item: ObjectInfo, max_bytes: int, on_load: Callable[[float], None] | None = None
) -> tuple[ObjectInfo, bytes]:
    """The object with its CRC32C, and its photo, unpacked if it is stored compressed.

    Calls `on_load` with the seconds it took. Raises ItemError.
    """
    begin = time.perf_counter()
    data = source.load(item)
    if item.crc32c is None:
        item = dataclasses.replace(item, size=len(data), crc32c=crc32c(data))
    photo = decoded(item, data, max_bytes)
    if on_load is not None:
        on_load(time.perf_counter() - begin)
    return item, photo


def stream(
    source: Source,
    embed: Callable[[bytes], PhotoResult],
    concurrency: int,
    bytes_in_flight: int,
    *,
    too_large: Callable[[int], ItemError | None] = lambda _: None,
    max_bytes: int = defaults.UNPACKED_BYTES,
    on_load: Callable[[float], None] | None = None,
    on_abort: Callable[[], None] | None = None,
) -> Generator[EmbeddedObject, None, None]:
    """Yields every listed object, in the order of the listing. An exception from `embed` ends the stream.

    `too_large` returns the error for a size that should not be loaded; a photo that is stored compressed may
    have `max_bytes`. `on_load` is called with the seconds that each load took. `on_abort` is called if the
    stream ends early. Loads in progress are then left to end by themselves.
    """
    budget = _ByteBudget(bytes_in_flight)
    stopped, in_flight = threading.Event(), _InFlight()

    def work(item: ObjectInfo) -> EmbeddedObject:
        if error := too_large(item.size):
            return EmbeddedObject(item, PhotoResult.of(error))
        budget.take(item.size)
        try:
            if stopped.is_set():
                raise CancelledError
            loaded, photo = load(source, item, max_bytes, on_load)
            with in_flight:
                return EmbeddedObject(loaded, embed(photo))
        except ItemError as error:
            return EmbeddedObject(item, PhotoResult.of(error))
        finally:
            budget.give(item.size)

    pool = DaemonExecutor(concurrency, "clip-stream")
    pending: deque[Future[EmbeddedObject]] = deque()
    try:
        for item in source.list():
            pending.append(pool.submit(work, item))
            if len(pending) >= concurrency * _WINDOW:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BaseException:
        if on_abort is not None:
            on_abort()
        raise
    finally:
        stopped.set()
        pool.shutdown(wait=False, cancel_futures=True)
        in_flight.wait(defaults.REQUEST_END_S)
