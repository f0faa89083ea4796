"""The queue for slots: which request may be sent next, and to which server, within the in-flight limits.

Retries go before first tries, whose deadlines have not started yet. A suspect waits until nothing else is in
flight on its server, and no other request starts there before it or while it runs.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from clip_client.requests.servers import Server, Servers, TryResult

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
    avoid: Collection[Server] = ()
    """The servers to use only if there is no other."""
    server: Server | None = None
    """Where it was granted a slot."""
    has_left: bool = False

    @property
    def is_granted(self) -> bool:
        return self.server is not None


class SlotQueue:
    """Hands out slots. It never blocks, so threads and asyncio can both use it."""

    def __init__(self, servers: Servers, event: Callable[[], Event], clock: Callable[[], float]) -> None:
        self.servers = servers
        self.closed = event()
        self._event, self._clock = event, clock
        self._lock = threading.Lock()
        self._isolated: deque[SlotRequest] = deque()
        self._retries: deque[SlotRequest] = deque()
        self._first_tries: deque[SlotRequest] = deque()
        self._reserved: Server | None = None
        """The server that gets no new requests until the first suspect can be sent there."""

    def enter(
        self,
        deadline_s: float,
        *,
        end: float | None = None,
        isolated: bool = False,
        avoid: Collection[Server] = (),
    ) -> SlotRequest:
        """Queues for a slot: as a retry that has time until `end`, or else with a new deadline."""
        request = SlotRequest(self._event(), self._clock(), deadline_s, end, avoid)
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
            if request.server is not None:
                request.server.limit.cancel()
            request.has_left = True
            self._hand_out()

    def finish(self, server: Server, result: TryResult) -> None:
        """Releases a slot after a try."""
        with self._lock:
            self.servers.note(server, result, self._clock())
            self._hand_out()

    def close(self) -> None:
        """Ends all waits. No more slots are handed out."""
        with self._lock:
            self.closed.set()
            for request in (*self._isolated, *self._retries, *self._first_tries):
                request.event.set()

    def _hand_out(self) -> None:
        for queue in (self._isolated, self._retries, self._first_tries):
            while queue and not self.closed.is_set() and self._is_over(queue[0], queue is self._isolated):
                queue.popleft().event.set()
            if not self._isolated:
                self._reserved = None

    def _is_over(self, request: SlotRequest, isolated: bool) -> bool:
        """Whether the request waits no longer: it has left, its time is up, or it has a slot now."""
        now, end = self._clock(), self._end(request)
        if request.has_left or end <= now:
            return True
        server = self._isolated_server(now, request) if isolated else self._free_server(now, request)
        if server is None:
            return False
        server.limit.start(isolated=isolated)
        request.end, request.server = end, server
        return True

    def _free_server(self, now: float, request: SlotRequest) -> Server | None:
        best = self.servers.best(now, request.avoid, self._reserved)
        return next((server for server in best if server.limit.allows()), None)

    def _isolated_server(self, now: float, request: SlotRequest) -> Server | None:
        """The server that is reserved for suspects once nothing is in flight there."""
        server = self._reserved
        if server is None or now < server.rests_until:
            server = self.servers.best(now, request.avoid, None)[0]
        is_free = server.limit.allows(isolated=True)
        self._reserved = None if is_free else server
        return server if is_free else None

    def _end(self, request: SlotRequest) -> float:
        """The end of a first try moves while the requests before it are being answered."""
        if request.end is not None:
            return request.end
        return self.servers.deadline_start(request.ready) + request.deadline_s
