"""The queue for slots: which request may be sent next within the in-flight limit.

Retries go before first tries, whose deadlines have not started yet. A suspect waits until nothing else is in
flight, and no other request starts before it or while it runs.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from clip_client.requests.backoff import InFlightLimit

Event = Any
"""threading.Event for a sync client, asyncio.Event for an asyncio one."""


@dataclass(eq=False)
class SlotRequest:
    """One request's place in the queue. `event` is set when the wait is over, with or without a slot."""

    event: Event
    ready: float
    deadline_s: float
    end: float | None
    """When its time is up; None until a first try has its slot."""
    is_granted: bool = False
    has_left: bool = False


class SlotQueue:
    """Hands out slots. It never blocks, so threads and asyncio can both use it."""

    def __init__(self, most: int, event: Callable[[], Event], clock: Callable[[], float]) -> None:
        self.limit = InFlightLimit(most)
        self.closed = event()
        self._event, self._clock = event, clock
        self._lock = threading.Lock()
        self._isolated: deque[SlotRequest] = deque()
        self._retries: deque[SlotRequest] = deque()
        self._first_tries: deque[SlotRequest] = deque()

    def enter(self, deadline_s: float, *, end: float | None = None, isolated: bool = False) -> SlotRequest:
        """Queues for a slot: as a retry that has time until `end`, or else with a new deadline."""
        request = SlotRequest(self._event(), self._clock(), deadline_s, end)
        with self._lock:
            queue = self._isolated if isolated else self._first_tries if end is None else self._retries
            queue.append(request)
            self._hand_out()
        return request

    def remaining_s(self, request: SlotRequest) -> float:
        """Seconds that the request may still wait; 0 or less if its time is up or the queue is closed."""
        with self._lock:
            return 0.0 if self.closed.is_set() else self._end(request) - self._clock()

    def leave(self, request: SlotRequest) -> None:
        """Ends the wait of a request, and takes back the slot that it may have been granted meanwhile."""
        with self._lock:
            if request.is_granted:
                self.limit.cancel()
            request.has_left = True
            self._hand_out()

    def finish(self, *, rejected: bool, answered: bool) -> None:
        """Releases a slot after a try; see InFlightLimit.finish()."""
        with self._lock:
            self.limit.finish(self._clock(), rejected=rejected, answered=answered)
            self._hand_out()

    def close(self) -> None:
        """Ends all waits. No more slots are handed out."""
        with self._lock:
            self.closed.set()
            for request in (*self._isolated, *self._retries, *self._first_tries):
                request.event.set()

    def _hand_out(self) -> None:
        while not self.closed.is_set() and (queue := self._isolated or self._retries or self._first_tries):
            request, is_isolated = queue[0], queue is self._isolated
            end = self._end(request)
            is_waiting = not request.has_left and end > self._clock()
            if is_waiting and not self.limit.allows(isolated=is_isolated):
                return
            queue.popleft()
            if is_waiting:
                self.limit.start(isolated=is_isolated)
                request.end, request.is_granted = end, True
            request.event.set()

    def _end(self, request: SlotRequest) -> float:
        """The end of a first try moves while the requests before it are being answered."""
        if request.end is not None:
            return request.end
        return self.limit.deadline_start(request.ready) + request.deadline_s
