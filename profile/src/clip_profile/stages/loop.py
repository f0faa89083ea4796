"""The load: so many requests always in flight, each of which loads its photos and has them embedded."""

from __future__ import annotations

import secrets
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from clip_client import ClipClient, ItemError
from clip_client.errors import ClipClientError
from clip_client.sources.gcs import ObjectInfo, Source
from clip_client.timings import TimedAnswer

NO_PHOTO_LEFT = "no photo is left that can be embedded"
_DRAIN_S = 5.0
"""For the requests in flight of a client that is being closed."""


@dataclass(frozen=True)
class Answered:
    """One request with at least one embedding; times in seconds, `end_s` on this machine's monotonic clock.

    `loaded_s` is the time until its last photo was loaded, one after the other; `load_s` of each photo.
    `waited_s`, of `request_s`, is the time before its last try: for its turn, and after refusals.
    `photo_s` is decode and preprocess of each photo, None where the server does not tell.
    """

    request_id: str
    end_s: float
    whole_s: float
    loaded_s: float
    load_s: tuple[float, ...]
    request_s: float
    waited_s: float
    photo_s: tuple[tuple[float, float], ...] | None
    embedded: tuple[bool, ...]
    bytes: int


class Rotation:
    """The photos over and over. One that failed is counted once and left out from then on: it would be
    answered without the work, and flatter the figures."""

    def __init__(self, items: Sequence[ObjectInfo]) -> None:
        self._items = list(items)
        self._next = 0
        self._lock = threading.Lock()
        self.failed: dict[str, ItemError] = {}

    def take(self, n: int) -> list[ObjectInfo]:
        """The next `n`; empty where no photo is left."""
        with self._lock:
            if not self._items:
                return []
            taken = [self._items[(self._next + i) % len(self._items)] for i in range(n)]
            self._next = (self._next + n) % len(self._items)
            return taken

    def leave_out(self, item: ObjectInfo, error: ItemError) -> None:
        with self._lock:
            if self.failed.setdefault(item.name, error) is error and item in self._items:
                place = self._items.index(item)
                del self._items[place]
                self._next -= place < self._next

    def failed_by_code(self) -> dict[str, int]:
        with self._lock:
            return dict(sorted(Counter(error.code for error in self.failed.values()).items()))


class ClosedLoop:
    """`concurrency` requests of `images` photos in flight from `start` to `stop`."""

    def __init__(
        self, client: ClipClient, source: Source, rotation: Rotation, concurrency: int, images: int
    ) -> None:
        self._client, self._source, self._rotation = client, source, rotation
        self._images = images
        self._names = count()
        self._run = secrets.token_hex(4)
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._answered: list[Answered] = []
        self._turns = [0] * concurrency
        self._threads = [
            threading.Thread(target=self._work, args=(i,), name=f"clip-stages-{i}", daemon=True)
            for i in range(concurrency)
        ]
        self.photos = 0
        """Embedded so far."""
        self.end: str | None = None
        """Why the load ended before it was told to."""

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    @property
    def came_round(self) -> bool:
        """Whether every request in flight has been answered once."""
        return min(self._turns) > 0

    def answered(self, begin_s: float, end_s: float) -> list[Answered]:
        """Those whose answer arrived between two moments."""
        with self._lock:
            return [one for one in self._answered if begin_s <= one.end_s <= end_s]

    def stop(self, patience_s: float) -> None:
        """Lets the requests in flight end, and after `patience_s` ends them; the client is closed by then."""
        self._stop.set()
        end = time.monotonic() + patience_s
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        self._client.close()
        end = time.monotonic() + _DRAIN_S
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))

    def give_up(self, why: str) -> None:
        """Ends the load; the first reason stays."""
        with self._lock:
            self.end = self.end or why
        self._stop.set()

    def _work(self, place: int) -> None:
        try:
            while not self._stop.is_set():
                items = self._rotation.take(self._images)
                if not items:
                    self.give_up(NO_PHOTO_LEFT)
                    return
                self._one(items)
                self._turns[place] += 1
        except Exception as error:
            if self._stop.is_set():  # a channel that we closed is no news
                return
            expected = isinstance(error, ClipClientError)
            self.give_up(str(error) if expected else f"{type(error).__name__}: {error}")

    def _one(self, items: Sequence[ObjectInfo]) -> None:
        begin = time.monotonic()
        loaded: list[tuple[ObjectInfo, bytes]] = []
        seconds: list[float] = []
        for item in items:
            before = time.monotonic()
            try:
                loaded.append((item, self._source.load(item)))
                seconds.append(time.monotonic() - before)
            except ItemError as error:
                self._rotation.leave_out(item, error)
        sent = time.monotonic()
        if not loaded:
            return
        name = f"{self._run}-{next(self._names)}"
        answer = self._client.request_timed([data for _, data in loaded], name)
        end = time.monotonic()
        if self._stop.is_set() and _cut_off(answer):
            return
        embedded = self._count(loaded, answer)
        if any(embedded):
            told: Any = answer.photo_s
            photo_s = None if told is None else tuple((float(row[0]), float(row[1])) for row in told)
            one = Answered(
                name, end, end - begin, sent - begin, tuple(seconds), answer.seconds,
                answer.waited_s, photo_s, embedded,
                sum(len(data) for _, data in loaded),
            )  # fmt: skip
            with self._lock:
                self._answered.append(one)
                self.photos += sum(embedded)

    def _count(self, loaded: Sequence[tuple[ObjectInfo, bytes]], answer: TimedAnswer) -> tuple[bool, ...]:
        embedded = []
        for (item, _), outcome in zip(loaded, answer.outcomes, strict=True):
            if isinstance(outcome, ItemError):
                self._rotation.leave_out(item, outcome)
            embedded.append(not isinstance(outcome, ItemError))
        return tuple(embedded)


def _cut_off(answer: TimedAnswer) -> bool:
    """What closing the channel makes of a request says nothing of its photos."""
    return all(isinstance(one, ItemError) and one.code == "request_failed" for one in answer.outcomes)
