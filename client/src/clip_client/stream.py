"""Loads and embeds many objects at once, in order, with a bound on the bytes that are held."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass

from clip_client.errors import ItemError
from clip_client.requests.wire import Embedding
from clip_client.sources.gcs import ObjectInfo, Source, crc32c

_WINDOW = 4
"""Objects submitted ahead of the one that is yielded next, for each worker."""


@dataclass(frozen=True)
class EmbeddedObject:
    """An object and what became of it: a float32 vector [D], or an ItemError."""

    info: ObjectInfo
    outcome: Embedding | ItemError

    @property
    def name(self) -> str:
        return self.info.name


class _ByteBudget:
    """Holds back workers while too many bytes are in flight; one object always goes through."""

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


def load(source: Source, item: ObjectInfo, on_load: Callable[[float], None] | None) -> bytes:
    """The object's bytes; `on_load` is told the seconds that it took. Raises ItemError."""
    begin = time.perf_counter()
    data = source.load(item)
    if on_load is not None:
        on_load(time.perf_counter() - begin)
    return data


def stream(
    source: Source,
    embed: Callable[[bytes], Embedding | ItemError],
    concurrency: int,
    bytes_in_flight: int,
    *,
    too_large: Callable[[int], ItemError | None] = lambda _: None,
    on_load: Callable[[float], None] | None = None,
    on_abort: Callable[[], None] | None = None,
) -> Generator[EmbeddedObject, None, None]:
    """Every listed object, in the listing's order. What `embed` raises ends the stream.

    `too_large` says of a size whether it is worth loading; `on_load` is told the seconds that each object
    took to load; `on_abort` is called before requests in flight are waited for, where it ends too early.
    """
    budget = _ByteBudget(bytes_in_flight)
    over = threading.Event()

    def work(item: ObjectInfo) -> EmbeddedObject:
        if error := too_large(item.size):
            return EmbeddedObject(item, error)
        budget.take(item.size)
        try:
            if over.is_set():
                raise CancelledError
            data = load(source, item, on_load)
            known = item if item.crc32c else ObjectInfo(item.name, len(data), item.generation, crc32c(data))
            return EmbeddedObject(known, embed(data))
        except ItemError as error:
            return EmbeddedObject(item, error)
        finally:
            budget.give(item.size)

    pool = ThreadPoolExecutor(concurrency, "clip-stream")
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
        over.set()
        pool.shutdown(wait=True, cancel_futures=True)
