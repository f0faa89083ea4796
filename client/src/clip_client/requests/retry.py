"""The retry policy: a request waits for a slot, is sent, and after a failure retried, isolated or given up.

failures.py says what is retryable, backoff.py how long to pause, and clip_client/defaults.py has the numbers.

The decisions are written once, as generators without I/O, for ClipClient and AsyncClipClient. A generator
yields commands (Wait, Call), is sent each command's result, and returns the answer; drivers.py runs it with
threads or with asyncio. A generator always releases its slot, even if it is closed early.

A photo can crash the Python process that decodes it. All photos in its batch then fail too, and if the
server restarts, so do all other requests in flight. So a request during which something crashed becomes a
suspect: it is retried isolated, with no other request of this client in flight. The request is to blame only
if that crashes the server again. A group of photos is then split, and each photo is tried isolated.

Triton fails a whole batch for one malformed request in it, and a photo that takes long delays its batch. So
another client can be the cause if a request is rejected or late. Such a request is sent again, in the end as
a batch of its own (request_bytes(alone=True)). If that fails too, the photo has an error; a late one
only if the server still answers others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, TypeVar

from tritonclient.grpc import InferResult

from clip_client import defaults
from clip_client.errors import ServerMismatch, ServerUnavailable
from clip_client.requests.backoff import Backoff
from clip_client.requests.channel import Transport
from clip_client.requests.failures import (
    DeadProcesses,
    Failure,
    busy,
    cannot_connect,
    item_errors,
    no_answer,
    server_error,
)
from clip_client.requests.slots import Event, SlotQueue
from clip_client.requests.wire import ModelInfo
from clip_client.results import PhotoResult
from clip_client.timings import ServerTimes, TimedAnswer, server_times

_LEAST_TIMEOUT_S = 0.001


@dataclass(frozen=True)
class Wait:
    """Wait until `event` is set, for at most `timeout_s`: for a slot, or between two tries until close()."""

    event: Event
    timeout_s: float


@dataclass(frozen=True)
class Call:
    """Call `function(argument, timeout_s)` of the transport. The result is its answer, or a Failure."""

    function: Callable[[Any, float], Any]
    argument: Any
    timeout_s: float


T = TypeVar("T")
Flow = Generator[Wait | Call, Any, T]


class Decision(Enum):
    """What to do after a failed try."""

    RETRY = auto()
    RESTART = auto()
    """Retry with a new deadline: an isolated request may have to queue behind other suspects."""
    BLAME = auto()
    """The request fails because of its photos."""
    GIVE_UP = auto()


class Suspicion:
    """Decides about one request's failures, and blames it after `crashes_to_blame` isolated crashes.

    `isolated` requests are sent with no other request of this client in flight, `alone` ones as a batch of
    their own.
    """

    def __init__(
        self, dead: DeadProcesses, *, isolated: bool, crashes_to_blame: int, alone: bool = False
    ) -> None:
        self.is_isolated = isolated
        self.is_alone = alone
        self._dead = dead
        self._crashes_left = crashes_to_blame
        self._rejections_left = defaults.SHARED_REJECTIONS

    def decide(self, failure: Failure) -> Decision:
        """Call it before releasing the request's slot, because another request could see the same crash."""
        if failure.is_timeout:
            return self._decide_late()
        has_crashed, was_isolated = self._dead.is_new_crash(failure), self.is_isolated
        self.is_isolated = was_isolated or has_crashed
        self._crashes_left -= has_crashed and was_isolated
        if self._crashes_left <= 0:
            return Decision.BLAME
        if failure.is_retryable:
            return Decision.RETRY if was_isolated == self.is_isolated else Decision.RESTART
        if failure.is_denied or failure.is_unreachable:
            return Decision.GIVE_UP
        return self._decide_rejected()

    def _decide_late(self) -> Decision:
        was_alone, self.is_alone = self.is_alone, True
        return Decision.BLAME if was_alone else Decision.RESTART

    def _decide_rejected(self) -> Decision:
        if self.is_alone:
            return Decision.BLAME
        self._rejections_left -= 1
        self.is_alone = self._rejections_left <= 0
        return Decision.RETRY


@dataclass(frozen=True)
class Message:
    """A request's photos and how to send them."""

    info: ModelInfo
    photos: Sequence[bytes]
    timed: bool = False
    request_id: str = ""

    def serialized(self, *, alone: bool) -> bytes:
        return self.info.request_bytes(self.photos, timed=self.timed, request_id=self.request_id, alone=alone)


class RetryEngine:
    """The flows of one client's calls. Safe to use from several threads.

    `event` makes the events to wait for: threading.Event or asyncio.Event, as the driver expects them.
    """

    def __init__(
        self,
        url: str,
        transport: Transport,
        deadline_s: float,
        concurrency: int,
        event: Callable[[], Event],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.url = url
        self._transport, self._deadline_s, self._clock = transport, deadline_s, clock
        self._probe_s = min(defaults.PROBE_S, deadline_s / 2)
        self._answered_at = float("-inf")
        self.slots = SlotQueue(concurrency, event, clock)
        self.dead_processes = DeadProcesses()

    def require_open(self) -> None:
        """Raises ServerUnavailable once the client was closed: its calls fail because of that."""
        if self.slots.closed.is_set():
            raise ServerUnavailable("this client was closed")

    def model_info(
        self, model: str, deadline_s: float, advice: str = "", *, starting: bool = False
    ) -> Flow[ModelInfo]:
        """Reads the description of an ensemble; see model_config()."""
        config = yield from self.model_config(model, deadline_s, advice, starting=starting)
        return ModelInfo.from_config(config)

    def model_config(
        self, model: str, deadline_s: float, advice: str = "", *, starting: bool = False
    ) -> Flow[Any]:
        """Reads the model's config, retrying until the deadline. Raises ServerUnavailable, ServerMismatch.

        `advice` is what to do if the server does not have the model. Unless the server may be `starting`, an
        address where nothing listens is an error at once.
        """
        self.require_open()
        end, backoff = self._clock() + deadline_s, Backoff()
        while True:
            answer = yield self._call(self._transport.config, model, end)
            if not isinstance(answer, Failure):
                return answer.config
            if answer.is_misconfigured or (answer.is_nobody and not starting):
                self.require_open()
                raise cannot_connect(self.url, answer)
            pause_s = backoff.next_s()
            if answer.is_retryable and self._clock() + pause_s <= end:
                yield Wait(self.slots.closed, pause_s)
                if not self.slots.closed.is_set():
                    continue
            self.require_open()
            raise server_error(self.url, deadline_s, answer) or ServerMismatch(
                f"the server at {self.url} does not serve {model}: {answer}" + f". {advice}" * bool(advice)
            )

    def statistics(self, info: ModelInfo) -> Flow[dict[str, ServerTimes]]:
        """The statistics of each composing model; empty if the server does not allow or answer the calls."""
        answers = []
        for step in info.steps:
            answer = None
            if not self.slots.closed.is_set():
                answer = yield Call(self._transport.statistics, step, self._deadline_s)
            if answer is None or isinstance(answer, Failure):
                return {}
            answers.append(answer)
        return server_times(answers)

    def request(
        self,
        info: ModelInfo,
        photos: Sequence[bytes],
        *,
        timed: bool = False,
        request_id: str = "",
        isolated: bool = False,
        alone: bool = False,
    ) -> Flow[TimedAnswer]:
        """Embeds at most a batch of encoded photos. Raises ServerUnavailable."""
        begin = self._clock()
        # One crash is enough to split a group.
        crashes = defaults.MAX_ISOLATED_CRASHES if len(photos) == 1 else 1
        suspicion = Suspicion(self.dead_processes, isolated=isolated, crashes_to_blame=crashes, alone=alone)
        answer, waited_s = yield from self._answer(Message(info, photos, timed, request_id), suspicion)
        seconds = self._clock() - begin
        if not isinstance(answer, Failure):
            return TimedAnswer.of(info, InferResult(answer), len(photos), seconds, waited_s)
        if len(photos) == 1:
            results = [PhotoResult.of(error) for error in item_errors(answer, 1)]
            return TimedAnswer(results, seconds, None, waited_s)
        results = []
        for photo in photos:
            single = self.request(info, [photo], isolated=suspicion.is_isolated, alone=suspicion.is_alone)
            results += (yield from single).results
        return TimedAnswer(results, self._clock() - begin, None, waited_s)

    def _answer(self, message: Message, suspicion: Suspicion) -> Flow[tuple[Any, float]]:
        """The server's answer, or the Failure due to these photos; and the seconds before the last try."""
        begin, backoff = self._clock(), Backoff()
        end = yield from self._first_slot(suspicion)
        while True:
            waited_s = self._clock() - begin
            answer, decision = yield from self._send(message, end, suspicion)
            if decision is None or decision is Decision.BLAME:
                return answer, waited_s
            if decision is Decision.RESTART and answer.is_timeout and len(message.photos) > 1:
                return answer, waited_s  # split it: each photo may take as long as the group did
            pause_s = backoff.next_s()
            if decision is Decision.RESTART:
                yield Wait(self.slots.closed, pause_s)
                end = yield from self._first_slot(suspicion)
                continue
            if decision is Decision.RETRY and self._clock() + pause_s < end:
                yield Wait(self.slots.closed, pause_s)
                if (yield from self._slot(suspicion, end)) is not None:
                    continue
            self.require_open()
            if answer.is_shared_memory_full and self._answered_at > begin:
                return answer, waited_s  # there is enough for other photos
            if error := server_error(self.url, self._deadline_s, answer):
                raise error
            return answer, waited_s

    def _send(self, message: Message, end: float, suspicion: Suspicion) -> Flow[tuple[Any, Decision | None]]:
        """One try, which releases its slot. An answer needs no decision."""
        rejected = answered = False
        begin = self._clock()
        try:
            data = message.serialized(alone=suspicion.is_alone)
            answer = yield self._call(self._transport.infer, data, end)
            if isinstance(answer, Failure) and answer.is_timeout:
                unreachable = yield from self._probe(message.info, begin)
                if unreachable is not None:
                    rejected = unreachable.is_overload
                    return (unreachable if rejected else answer), Decision.GIVE_UP
                answered = True
                return answer, suspicion.decide(answer)
            if not isinstance(answer, Failure):
                answered, self._answered_at = True, self._clock()
                return answer, None
            rejected, answered = answer.is_overload, not answer.is_unreachable
            return answer, suspicion.decide(answer)
        finally:
            self.slots.finish(rejected=rejected, answered=answered)

    def _probe(self, info: ModelInfo, since: float) -> Flow[Failure | None]:
        """None if the server has answered a request `since` then, or now answers an empty photo."""
        if self._answered_at > since:
            return None
        answer = yield Call(self._transport.infer, info.request_bytes([b""]), self._probe_s)
        if isinstance(answer, Failure) and (answer.is_unreachable or answer.is_retryable):
            return answer
        self._answered_at = self._clock()
        return None

    def _first_slot(self, suspicion: Suspicion) -> Flow[float]:
        """Waits for a slot with a new deadline; returns the time at which the deadline expires.

        It waits a little longer than that: requests in flight may all be late on a server that works.
        """
        end = yield from self._slot(suspicion)
        if end is not None:
            return min(end, self._clock() + self._deadline_s)
        self.require_open()
        if self.slots.limit.is_overloaded:
            raise busy(self.url, self._deadline_s)
        raise no_answer(self.url, self._deadline_s, "nor to earlier requests")

    def _slot(self, suspicion: Suspicion, end: float | None = None) -> Flow[float | None]:
        """Waits for a slot until `end`, or with a new deadline; returns the end, or None without a slot."""
        deadline_s = self._deadline_s + self._probe_s
        place = self.slots.enter(deadline_s, end=end, isolated=suspicion.is_isolated)
        has_slot = False
        try:
            while not place.is_granted and (left_s := self.slots.remaining_s(place)) > 0:
                yield Wait(place.event, left_s)
            has_slot = place.is_granted
        finally:
            if not has_slot:
                self.slots.leave(place)
        return place.end if has_slot else None

    def _call(self, function: Callable[[Any, float], Any], argument: Any, end: float) -> Call:
        return Call(function, argument, max(_LEAST_TIMEOUT_S, end - self._clock()))
