"""The servers of one client: which of them takes the next request.

Each server has an in-flight limit of its own, because each has a queue of its own. A request goes to the one
that is expected to answer first: its average time to answer, times the requests that it already has. The
average of an idle server ages, so that one slow answer, as after a start, does not keep requests away for
good. A server that fails or stalls rests for a while, and a server that is much slower than the fastest is
sent fewer requests at a time. With one server, none of this has an effect.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from clip_client import defaults
from clip_client.errors import ServerMismatch
from clip_client.requests.backoff import Backoff, InFlightLimit
from clip_client.requests.channel import Transport
from clip_client.requests.failures import DeadProcesses

_NEVER = float("-inf")
_LEAST_S = 0.001
"""A server that has not answered yet counts as fast, so that it is tried."""
_AGE_S = 1.0
"""The weight of earlier answers in the moving average falls by the factor e in this time."""


@dataclass(eq=False)
class Server:
    """One server, and what its answers have shown. Times are seconds of one monotonic clock."""

    url: str
    transport: Transport
    limit: InFlightLimit
    dead_processes: DeadProcesses = field(default_factory=DeadProcesses)
    answered: int = 0
    answered_at: float = _NEVER
    answer_s: float | None = None
    """Moving average of the time to answer."""
    verified: set[str] = field(default_factory=set)
    """The models whose settings were compared, since it was last away, with those read first."""
    rests_until: float = _NEVER
    _backoff: Backoff = field(default_factory=Backoff)

    def cost(self, now: float) -> float:
        """Seconds until it would answer another request, roughly."""
        waiting = self.limit.in_flight
        aged = 1.0 if waiting else self._weight(now)
        return (waiting + 1) * max(aged * (self.answer_s or 0.0), _LEAST_S)

    def note_answer(self, now: float, seconds: float) -> None:
        before, kept = self.answer_s or 0.0, self._weight(now)
        self.answer_s = kept * before + (1 - kept) * seconds
        self.answered += 1
        self.answered_at = now
        self.rests_until, self._backoff = _NEVER, Backoff()

    def _weight(self, now: float) -> float:
        """Of the average, beside an answer that comes now: 0 before the first answer."""
        return math.exp((self.answered_at - now) / _AGE_S)

    def rest(self, now: float, least_s: float = 0.0) -> None:
        """Keeps requests away for a while, which doubles with each rest until the server answers."""
        if now >= self.rests_until:  # requests that fail together count once
            self.rests_until = now + max(least_s, self._backoff.next_s())


@dataclass
class TryResult:
    """A try that began at the time `begin`, and how it ended; see InFlightLimit.finish() for the next two.

    `answer_s` is how long an answer with a result took. A server `stalled` if it took the request and did not
    answer anything, and is `away` if it could not be reached or has lost a process.
    """

    begin: float = 0.0
    rejected: bool = False
    answered: bool = False
    answer_s: float | None = None
    stalled: bool = False
    away: bool = False


class Servers:
    """A client's servers, at least one. Not synchronized: SlotQueue calls it under its lock."""

    def __init__(self, transports: Mapping[str, Transport], concurrency: int) -> None:
        """`transports` by address; each server gets at most `concurrency` requests at a time."""
        self.all = tuple(Server(url, each, InFlightLimit(concurrency)) for url, each in transports.items())
        self.url = ", ".join(transports)
        """For messages about all of them."""
        self.compared: set[str] = set()
        """The models whose settings must be the same on all servers."""
        self._expected: dict[str, tuple[str, dict[str, str]]] = {}

    @property
    def are_several(self) -> bool:
        return len(self.all) > 1

    @property
    def is_overloaded(self) -> bool:
        return all(server.limit.is_overloaded for server in self.all)

    @property
    def dead_processes(self) -> frozenset[str]:
        return frozenset(name for server in self.all for name in server.dead_processes.names)

    def deadline_start(self, ready: float) -> float:
        """See InFlightLimit.deadline_start()."""
        return max(server.limit.deadline_start(ready) for server in self.all)

    def best(self, now: float, avoid: Collection[Server], reserved: Server | None) -> list[Server]:
        """The servers that a request may wait for, the best first.

        A server that rests is used only if all do, and then the one whose rest ends first. The same holds for
        those to `avoid`, where the request has failed.
        """
        awake = [server for server in self.all if now >= server.rests_until]
        if awake:
            wanted = [each for each in awake if each not in avoid] or awake
            found = sorted(wanted, key=lambda each: each.cost(now))
        else:
            found = [min(self.all, key=lambda each: (each in avoid, each.rests_until))]
        return [server for server in found if server is not reserved]

    def note(self, server: Server, result: TryResult, now: float) -> None:
        """Takes a try's end into account for the requests that follow."""
        is_slow = result.answer_s is not None and self._is_slow(result.answer_s)
        server.limit.finish(now, rejected=result.rejected or is_slow, answered=result.answered)
        if result.answer_s is not None:
            server.note_answer(now, result.answer_s)
        if result.away:
            server.verified.clear()  # it may come back with another model
        if not self.are_several:
            return
        if result.away:
            server.rest(now)
        if result.stalled:
            server.rest(now, self.patience_s())
            server.limit.collapse()

    def others_answered_since(self, server: Server, since: float) -> bool:
        return any(each.answered_at > since for each in self.all if each is not server)

    def patience_s(self) -> float:
        """How long a request waits for one server before it is sent to another."""
        return max(defaults.PATIENCE_S, defaults.SLOW_FACTOR * self._fastest_s())

    def _is_slow(self, seconds: float) -> bool:
        """Whether an answer took much longer than those of the fastest server."""
        fastest_s = self._fastest_s() or seconds
        return self.are_several and seconds > max(defaults.SLOW_S, defaults.SLOW_FACTOR * fastest_s)

    def _fastest_s(self) -> float:
        return min((each.answer_s for each in self.all if each.answer_s is not None), default=0.0)

    def missing(self, server: Server) -> list[str]:
        """The models whose settings must be compared before the server is used."""
        return sorted(self.compared - server.verified)

    def verify(self, server: Server, config: Any) -> None:
        """Compares a ModelConfig with that of the server that answered first, perhaps this one.

        Raises ServerMismatch, which names the servers and the setting, if their results would differ.
        """
        found = settings_of(config)
        url, expected = self._expected.setdefault(config.name, (server.url, found))
        for name in sorted(expected.keys() | found.keys()):
            then, now = (each.get(name, "(not set)") for each in (expected, found))
            if then != now and url == server.url:
                raise ServerMismatch(
                    f"the server at {url} has changed since it was first used: {config.name} had {name} "
                    f"{then} and now has {now}. Open a new client, and do not mix vectors of the two"
                )
            if then != now:
                raise ServerMismatch(
                    f"the servers at {url} and {server.url} differ: {config.name} has {name} {then} on the "
                    f"first and {now} on the second. Give servers of the same model and settings"
                )
        server.verified.add(config.name)

    def statuses(self) -> tuple[ServerStatus, ...]:
        return tuple(
            ServerStatus(each.url, each.answered, each.limit.current, is_compared=not self.missing(each))
            for each in self.all
        )


@dataclass(frozen=True)
class ServerStatus:
    """One server of a client: the requests that it has answered, and how many it may have in flight now.

    A server is not compared with the others, and gets no requests, until it answers for the first time.
    """

    url: str
    answered: int
    in_flight_limit: int
    is_compared: bool


_OWN = (
    "niceness", "threads", "decode_timeout_s", "encoder_version", "reference_",
    "precision", "cudnn_", "intra_op_", "INFERENCE_MODE",
)  # fmt: skip
"""Prefixes of parameters in which servers may differ. A version counts exports of the same weights. The last
four belong to the encoder's backends; `encoder_precision` is compared."""


def settings_of(config: Any) -> dict[str, str]:
    """What must be equal on all servers of a client: the model's parameters, its tensors and its batch."""
    parameters = {
        f"parameter {key}": value.string_value
        for key, value in config.parameters.items()
        if not key.startswith(_OWN)
    }
    return {
        **parameters,
        "inputs": _described(config.input),
        "outputs": _described(config.output),
        "max_batch_size": str(config.max_batch_size),
    }


def _described(tensors: Iterable[Any]) -> str:
    return "; ".join(f"{each.name} {each.data_type} {list(each.dims)}" for each in tensors)
