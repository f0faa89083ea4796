"""Packs the pixels of concurrent calls into few requests: each request costs CPU time on both sides.

A call sends its pixels at once if no request is in flight. While some are, at most `senders` of them, others
wait until they have as many photos as the smallest of those requests, or until one of them ends. The call
that has waited longest then sends the pixels of all that wait, up to the encoder's largest batch. So nothing
waits for pixels that may not come, every instance of the encoder is used, and requests grow while it is busy.

Written as flows (flow.py).
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from clip_client.requests.flow import Flow, Wait
from clip_client.requests.pixels import EncoderInfo
from clip_client.requests.retry import RetryEngine
from clip_client.requests.slots import Event
from clip_client.timings import TimedAnswer

_WAIT_S = 3600.0
"""The event is set long before."""


@dataclass(eq=False)
class _Part:
    """One call's pixels. `event` is set when it has an answer or an error, or when it is its turn to send
    those of `batch`, its own first."""

    pixels: Sequence[bytes]
    event: Event
    batch: list[_Part] = field(default_factory=list)
    answer: TimedAnswer | None = None
    error: Exception | None = None
    has_left: bool = False


class PixelPacker:
    """Sends pixels to one encoder. Safe to use from several threads, or from the tasks of one event loop."""

    def __init__(
        self, engine: RetryEngine, encoder: EncoderInfo, senders: int, event: Callable[[], Event]
    ) -> None:
        self._engine, self._encoder, self._senders, self._event = engine, encoder, senders, event
        self._lock = threading.Lock()
        self._waiting: deque[_Part] = deque()
        self._in_flight: list[list[_Part]] = []

    def request(self, pixels: Sequence[bytes]) -> Flow[TimedAnswer]:
        """Like RetryEngine.request(), for at most a batch of pixels. Raises ServerUnavailable."""
        part, begin = _Part(pixels, self._event()), time.monotonic()
        with self._lock:
            self._waiting.append(part)
            self._appoint()
        try:
            while not part.event.is_set():
                yield Wait(part.event, _WAIT_S)
            if part.batch:
                yield from self._send([each for each in part.batch if not each.has_left])
        finally:
            self._leave(part)
        if part.error is not None:
            raise part.error
        assert part.answer is not None
        waited_s = max(0.0, time.monotonic() - begin - part.answer.seconds)
        return TimedAnswer(
            part.answer.results,
            part.answer.seconds + waited_s,
            waited_s=part.answer.waited_s + waited_s,
        )

    def _send(self, parts: Sequence[_Part]) -> Flow[None]:
        pixels = [each for part in parts for each in part.pixels]
        try:
            answer = yield from self._engine.request(self._encoder, pixels)
        except Exception as error:
            for part in parts:
                part.error = error
                part.event.set()
            return
        start = 0
        for part in parts:
            results = answer.results[start : start + len(part.pixels)]
            part.answer = TimedAnswer(results, answer.seconds, waited_s=answer.waited_s)
            start += len(part.pixels)
            part.event.set()

    def _leave(self, part: _Part) -> None:
        """Ends a call. If it gave up before it could send for others, they wait again."""
        with self._lock:
            part.has_left = True
            if part.batch:
                self._in_flight.remove(part.batch)
                others = [each for each in part.batch[1:] if not each.event.is_set() and not each.has_left]
                self._waiting.extendleft(reversed(others))
            elif part in self._waiting:
                self._waiting.remove(part)
            self._appoint()

    def _appoint(self) -> None:
        """Gives calls that wait their turn to send, the longest waiting first."""
        while self._waiting and self._may_send():
            sender = self._waiting.popleft()
            sender.batch = [sender]
            room = self._encoder.max_batch_size - len(sender.pixels)
            while self._waiting and len(self._waiting[0].pixels) <= room:
                sender.batch.append(self._waiting.popleft())
                room -= len(sender.batch[-1].pixels)
            self._in_flight.append(sender.batch)
            sender.event.set()

    def _may_send(self) -> bool:
        if len(self._in_flight) >= self._senders:
            return False
        return _photos(self._waiting) >= min(map(_photos, self._in_flight), default=0)


def _photos(parts: Iterable[_Part]) -> int:
    return sum(len(part.pixels) for part in parts)
