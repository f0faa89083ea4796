"""Packs the pixels of concurrent calls into few requests: each request costs CPU time on both sides.

A call that finds fewer than `senders` requests in flight sends its pixels at once. The others wait. When a
request ends, the call that has waited longest sends the pixels of all that wait, up to the encoder's largest
batch. So nothing waits for pixels that may not come, and requests grow only while the encoder is busy.

Like retry.py, generators without I/O for both clients.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from clip_client.requests.pixels import EncoderInfo
from clip_client.requests.retry import Flow, RetryEngine, Wait
from clip_client.requests.slots import Event
from clip_client.timings import TimedAnswer

_WAIT_S = 3600.0
"""The event is set long before."""


@dataclass(eq=False)
class _Part:
    """One call's pixels. `event` is set when it has an answer or an error, or when it is its turn to send."""

    pixels: Sequence[bytes]
    event: Event
    is_sender: bool = False
    answer: TimedAnswer | None = None
    error: Exception | None = None
    has_left: bool = False


class PixelPacker:
    """Sends pixels to one encoder. Safe to use from several threads, or from the tasks of one event loop."""

    def __init__(
        self, engine: RetryEngine, encoder: EncoderInfo, senders: int, event: Callable[[], Event]
    ) -> None:
        self._engine, self._encoder, self._event = engine, encoder, event
        self._free = senders
        self._lock = threading.Lock()
        self._waiting: deque[_Part] = deque()

    def request(self, pixels: Sequence[bytes]) -> Flow[TimedAnswer]:
        """Like RetryEngine.request(), for at most a batch of pixels. Raises ServerUnavailable."""
        part, begin = _Part(pixels, self._event()), time.monotonic()
        with self._lock:
            self._waiting.append(part)
            self._appoint()
        try:
            while not part.event.is_set():
                yield Wait(part.event, _WAIT_S)
            if part.is_sender:
                yield from self._send(part)
        finally:
            self._leave(part)
        if part.error is not None:
            raise part.error
        assert part.answer is not None
        waited_s = time.monotonic() - begin - part.answer.seconds
        return TimedAnswer(
            part.answer.results,
            part.answer.seconds + waited_s,
            waited_s=part.answer.waited_s + max(0.0, waited_s),
        )

    def _send(self, sender: _Part) -> Flow[None]:
        parts = self._take(sender)
        try:
            pixels = [each for part in parts for each in part.pixels]
            answer = yield from self._engine.request(self._encoder, pixels)
        except Exception as error:
            self._finish(parts, error=error)
        except BaseException:  # the caller gives up: not the other calls
            with self._lock:
                self._waiting.extendleft(each for each in reversed(parts[1:]) if not each.has_left)
            raise
        else:
            self._finish(parts, answer=answer)

    def _take(self, sender: _Part) -> list[_Part]:
        """The sender's part, and those that have waited longest, up to a batch."""
        parts, room = [sender], self._encoder.max_batch_size - len(sender.pixels)
        with self._lock:
            while self._waiting and len(self._waiting[0].pixels) <= room:
                parts.append(self._waiting.popleft())
                room -= len(parts[-1].pixels)
        return parts

    def _finish(
        self, parts: Sequence[_Part], *, answer: TimedAnswer | None = None, error: Exception | None = None
    ) -> None:
        start = 0
        for part in parts:
            end = start + len(part.pixels)
            if answer is not None:
                results = answer.results[start:end]
                part.answer = TimedAnswer(results, answer.seconds, waited_s=answer.waited_s)
            part.error, start = error, end
            part.event.set()

    def _leave(self, part: _Part) -> None:
        """Ends a call, whether it was answered or not."""
        with self._lock:
            part.has_left = True
            if part.is_sender:
                self._free += 1
            elif part in self._waiting:
                self._waiting.remove(part)
            self._appoint()

    def _appoint(self) -> None:
        """Makes those that have waited longest senders, as many as may send."""
        while self._free and self._waiting:
            part = self._waiting.popleft()
            self._free -= 1
            part.is_sender = True
            part.event.set()
