"""The retry policy: a request waits for a slot, is sent, and after a failure retried, isolated or given up.

failures.py says what is retryable, suspicion.py what to do after a failure, backoff.py how long to pause, and
clip_client/defaults.py has the numbers.

Written as flows (flow.py). A flow always releases its slot, even if it is closed early.

A client of several servers (servers.py) sends a retry to any of them. It does not wait for one server until
the deadline: a request that is not answered for a while is sent to another, once per server.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tritonclient.grpc import InferResult

from clip_client import defaults
from clip_client.errors import ServerMismatch, ServerUnavailable
from clip_client.requests.backoff import Backoff
from clip_client.requests.failures import (
    Failure,
    busy,
    cannot_connect,
    item_errors,
    no_answer,
    server_error,
)
from clip_client.requests.flow import Call, Flow, Wait
from clip_client.requests.servers import Server, Servers, TryResult
from clip_client.requests.slots import Event, SlotQueue, SlotRequest
from clip_client.requests.suspicion import Decision, Suspicion
from clip_client.requests.wire import ModelInfo
from clip_client.results import PhotoResult
from clip_client.timings import ServerTimes, TimedAnswer, server_times

_LEAST_TIMEOUT_S = 0.001


@dataclass(frozen=True)
class Message:
    """A request's photos and how to send them."""

    info: ModelInfo
    photos: Sequence[bytes]
    timed: bool = False
    request_id: str = ""

    def serialized(self, *, alone: bool) -> bytes:
        return self.info.request_bytes(self.photos, timed=self.timed, request_id=self.request_id, alone=alone)


@dataclass(frozen=True)
class Slot:
    """A slot on a server, for a request that has time until `end`."""

    server: Server
    end: float


class RetryEngine:
    """The flows of one client's calls. Safe to use from several threads.

    `event` makes the events to wait for: threading.Event or asyncio.Event, as the driver expects them.
    """

    def __init__(
        self,
        servers: Servers,
        deadline_s: float,
        event: Callable[[], Event],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.servers = servers
        self._deadline_s, self._clock = deadline_s, clock
        self._probe_s = min(defaults.PROBE_S, deadline_s / 2)
        self.slots = SlotQueue(servers, event, clock)

    def require_open(self) -> None:
        """Raises ServerUnavailable once the client was closed: its calls fail because of that."""
        if self.slots.closed.is_set():
            raise ServerUnavailable("this client was closed")

    def model_info(
        self, model: str, deadline_s: float, advice: str = "", *, starting: bool = False
    ) -> Flow[ModelInfo]:
        """Reads the description of an ensemble; see model_config() and require_equal()."""
        config = yield from self.model_config(model, deadline_s, advice, starting=starting)
        info = ModelInfo.from_config(config)
        yield from self.require_equal([model, *info.steps[:1]])  # the first step has the pixels' settings
        return info

    def require_equal(self, models: Sequence[str]) -> Flow[None]:
        """Compares the settings of these models on all servers, now and whenever one was away.

        Raises ServerMismatch if they differ. Those that do not answer now are compared later.
        """
        self.servers.compared.update(models)
        for server in self.servers.all:
            failure = yield from self._compare(server, self._clock() + self._probe_s)
            if failure is not None and self.servers.are_several:
                server.rest(self._clock())

    def _compare(self, server: Server, end: float) -> Flow[Failure | None]:
        """Compares the settings of a server that has not answered yet, or was away; None if they are equal.

        Raises ServerMismatch if they are not.
        """
        for model in self.servers.missing(server):
            answer = yield self._call(server.transport.config, model, min(end, self._clock() + self._probe_s))
            if isinstance(answer, Failure):
                if server_error(server.url, self._deadline_s, answer) is None:
                    raise _no_model(server, model, answer)
                return answer
            self.servers.verify(server, answer.config)
        return None

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
            server, answer = yield from self._config(model, end)
            if not isinstance(answer, Failure):
                return answer.config
            if answer.is_misconfigured or (answer.is_nobody and not starting):
                self.require_open()
                raise cannot_connect(server.url, answer)
            pause_s = backoff.next_s()
            if answer.is_retryable and self._clock() + pause_s <= end:
                yield Wait(self.slots.closed, pause_s)
                if not self.slots.closed.is_set():
                    continue
            self.require_open()
            raise server_error(server.url, deadline_s, answer) or _no_model(server, model, answer, advice)

    def _config(self, model: str, end: float) -> Flow[tuple[Server, Any]]:
        """The first server that answers, with its answer; or one that may answer later, with its failure."""
        failures = []
        for server in self.servers.all:
            until = min(end, self._clock() + self._probe_s) if self.servers.are_several else end
            answer = yield self._call(server.transport.config, model, until)
            if not isinstance(answer, Failure):
                return server, answer
            failures.append((server, answer))
        return next(
            (each for each in failures if each[1].is_retryable and not each[1].is_nobody), failures[0]
        )

    def statistics(self, info: ModelInfo) -> Flow[dict[str, ServerTimes]]:
        """The statistics of each composing model; empty if the server does not allow or answer the calls."""
        answers = []
        for server in self.servers.all:
            for step in info.steps:
                answer = None
                if not self.slots.closed.is_set():
                    answer = yield Call(server.transport.statistics, step, self._deadline_s)
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
        suspicion = Suspicion(isolated=isolated, crashes_to_blame=crashes, alone=alone)
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
        slot = yield from self._first_slot(suspicion)
        while True:
            waited_s = self._clock() - begin
            answer, decision = yield from self._send(message, slot, suspicion)
            if decision is None or decision is Decision.BLAME:
                return answer, waited_s
            if decision is Decision.RESTART and answer.is_timeout and len(message.photos) > 1:
                return answer, waited_s  # split it: each photo may take as long as the group did
            pause_s = backoff.next_s()
            if decision is Decision.RESTART:
                yield Wait(self.slots.closed, pause_s)
                slot = yield from self._first_slot(suspicion)
                continue
            if decision is Decision.RETRY and self._clock() + pause_s < slot.end:
                yield Wait(self.slots.closed, pause_s)
                if (next_slot := (yield from self._slot(suspicion, slot.end))) is not None:
                    slot = next_slot
                    continue
            self.require_open()
            if answer.is_shared_memory_full and slot.server.answered_at > begin:
                return answer, waited_s  # there is enough for other photos
            if error := server_error(slot.server.url, self._deadline_s, answer):
                raise error
            return answer, waited_s

    def _send(self, message: Message, slot: Slot, suspicion: Suspicion) -> Flow[tuple[Any, Decision | None]]:
        """One try, which releases its slot. An answer needs no decision."""
        server, result = slot.server, TryResult(self._clock())
        try:
            if (failure := (yield from self._compare(server, slot.end))) is not None:
                result.away = True
                server.dead_processes.is_new_crash(failure)  # never by this call, but it shows a restart
                return failure, Decision.GIVE_UP if failure.is_denied else Decision.RETRY
            result.begin, end = self._clock(), self._end_of_try(slot, suspicion)
            data = message.serialized(alone=suspicion.is_alone)
            answer = yield self._call(server.transport.infer, data, end)
            if not isinstance(answer, Failure):
                result.answered, result.answer_s = True, self._clock() - result.begin
                return answer, None
            if answer.is_timeout and end < slot.end:
                return answer, self._move(server, suspicion, result)
            if answer.is_timeout:
                return (yield from self._late(message.info, server, suspicion, result, answer))
            result.rejected, result.answered = answer.is_overload, not answer.is_unreachable
            result.away = answer.is_away
            return answer, suspicion.decide(answer, server.dead_processes)
        finally:
            if result.away or result.stalled:
                suspicion.failed_on(server, self.servers)
            self.slots.finish(server, result)

    def _end_of_try(self, slot: Slot, suspicion: Suspicion) -> float:
        """Earlier than the deadline while there is a server where the request was not late."""
        if len(suspicion.late_on) >= len(self.servers.all) - 1:
            return slot.end
        return min(slot.end, self._clock() + self.servers.patience_s())

    def _move(self, server: Server, suspicion: Suspicion, result: TryResult) -> Decision:
        """The request goes to another server: this one has stalled, or the photo takes long anywhere."""
        result.stalled = server.answered_at <= result.begin
        result.answered = not result.stalled
        suspicion.late_on.update([server] if result.stalled else self.servers.all)
        return Decision.RETRY

    def _late(
        self, info: ModelInfo, server: Server, suspicion: Suspicion, result: TryResult, answer: Failure
    ) -> Flow[tuple[Failure, Decision]]:
        """Whether the photos of a request are late, or the server, or all servers."""
        unreachable = yield from self._probe(server, info, result.begin)
        if unreachable is None:
            result.answered = True
            return answer, suspicion.decide(answer, server.dead_processes)
        result.rejected = unreachable.is_overload
        if self.servers.others_answered_since(server, result.begin):
            result.stalled = not result.rejected
            return answer, Decision.RESTART
        return (unreachable if result.rejected else answer), Decision.GIVE_UP

    def _probe(self, server: Server, info: ModelInfo, since: float) -> Flow[Failure | None]:
        """None if the server has answered a request `since` then, or now answers an empty photo."""
        if server.answered_at > since:
            return None
        answer = yield Call(server.transport.infer, info.request_bytes([b""]), self._probe_s)
        if isinstance(answer, Failure) and (answer.is_unreachable or answer.is_retryable):
            return answer
        server.answered_at = self._clock()
        return None

    def _first_slot(self, suspicion: Suspicion) -> Flow[Slot]:
        """Waits for a slot with a new deadline.

        It waits a little longer than that: requests in flight may all be late on a server that works.
        """
        slot = yield from self._slot(suspicion)
        if slot is not None:
            return Slot(slot.server, min(slot.end, self._clock() + self._deadline_s))
        self.require_open()
        if self.servers.is_overloaded:
            raise busy(self.servers.url, self._deadline_s)
        raise no_answer(self.servers.url, self._deadline_s, "nor to earlier requests")

    def _slot(self, suspicion: Suspicion, end: float | None = None) -> Flow[Slot | None]:
        """Waits for a slot until `end`, or with a new deadline; None without a slot."""
        place = self.slots.enter(
            self._deadline_s + self._probe_s,
            end=end,
            isolated=suspicion.is_isolated,
            avoid=suspicion.avoid,
        )
        slot = None
        try:
            while (slot := _granted(place)) is None and (left_s := self.slots.remaining_s(place)) > 0:
                yield Wait(place.event, left_s)
        finally:
            if slot is None:
                self.slots.leave(place)
        return slot

    def _call(self, function: Callable[[Any, float], Any], argument: Any, end: float) -> Call:
        return Call(function, argument, max(_LEAST_TIMEOUT_S, end - self._clock()))


def _granted(place: SlotRequest) -> Slot | None:
    return None if place.server is None or place.end is None else Slot(place.server, place.end)


def _no_model(server: Server, model: str, answer: Failure, advice: str = "") -> ServerMismatch:
    text = f"the server at {server.url} does not serve {model}: {answer}"
    return ServerMismatch(f"{text}. {advice}" if advice else text)
