"""One request of the load: its photos are loaded and then embedded, and every part is timed."""

from __future__ import annotations

import secrets
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from clip_client import ClipClient, ItemError, ObjectInfo, Source
from clip_client.stream import load
from clip_client.timings import TimedAnswer
from clip_profile.errors import NoPhotoLeft
from clip_profile.load.closed_loop import ClosedLoop


@dataclass(frozen=True)
class Answered:
    """One request with at least one embedding; times in seconds, `end_s` on this machine's monotonic clock.

    `loaded_s` is the time until its last photo was loaded, one after the other; `load_s` of each photo.
    `waited_s`, of `request_s`, is the time before its last attempt: queued at the client, and after
    refusals. `photo_s` is decode and preprocess of each photo, None if the server does not report them.
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
    """The photos, in turn and without end. One that fails is counted once and then left out: it would be
    answered without the work, and flatter the figures."""

    def __init__(self, items: Sequence[ObjectInfo]) -> None:
        self._items = list(items)
        self._next = 0
        self._lock = threading.Lock()
        self.failed: dict[str, ItemError] = {}

    def take(self, n: int) -> list[ObjectInfo]:
        """The next `n`; empty if no photo is left."""
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


class Requests:
    """Requests of `images` photos in a closed loop of `concurrency` of them."""

    def __init__(
        self, client: ClipClient, source: Source, rotation: Rotation, concurrency: int, images: int
    ) -> None:
        self._client, self._source, self.rotation, self._images = client, source, rotation, images
        self._names, self._run = count(), secrets.token_hex(4)
        self._answered: list[Answered] = []
        self.loop = ClosedLoop(lambda: self._one, concurrency)

    def answered(self, begin_s: float, end_s: float) -> list[Answered]:
        """Those whose answer arrived between two moments."""
        return [one for one in list(self._answered) if begin_s <= one.end_s <= end_s]

    def _one(self) -> int:
        """Loads and embeds the next photos; returns how many were embedded. Raises NoPhotoLeft."""
        begin = time.monotonic()
        loaded, load_s = self._load(self.rotation.take(self._images))
        sent = time.monotonic()
        if not loaded:
            return 0
        name = f"{self._run}-{next(self._names)}"
        answer = self._client.request_timed([data for _, data in loaded], name)
        end = time.monotonic()
        if self.loop.stopping and _cut_off(answer):
            return 0
        for (item, _), outcome in zip(loaded, answer.outcomes, strict=True):
            if isinstance(outcome, ItemError):
                self.rotation.leave_out(item, outcome)
        embedded = tuple(not isinstance(outcome, ItemError) for outcome in answer.outcomes)
        if any(embedded):
            rows: Any = answer.photo_s
            photo_s = None if rows is None else tuple((float(row[0]), float(row[1])) for row in rows)
            one = Answered(
                name, end, end - begin, sent - begin, load_s, answer.seconds, answer.waited_s, photo_s,
                embedded, sum(len(data) for _, data in loaded),
            )  # fmt: skip
            self._answered.append(one)
        return sum(embedded)

    def _load(self, items: Sequence[ObjectInfo]) -> tuple[list[tuple[ObjectInfo, bytes]], tuple[float, ...]]:
        """The photos that could be loaded, and the seconds that each took."""
        if not items:
            raise NoPhotoLeft
        loaded, seconds = [], []
        for item in items:
            begin = time.monotonic()
            try:
                _, data = load(self._source, item, self._client.info.unpacked_bytes)
                loaded.append((item, data))
                seconds.append(time.monotonic() - begin)
            except ItemError as error:
                self.rotation.leave_out(item, error)
        return loaded, tuple(seconds)


def _cut_off(answer: TimedAnswer) -> bool:
    """Whether closing the channel ended the request, which says nothing about its photos."""
    return all(isinstance(one, ItemError) and one.code == "request_failed" for one in answer.outcomes)
