"""What becomes of a call that failed: another try, an error for its photos, or an error for the whole run.

Nothing here waits or sends; both clients ask it after every failed try.

A photo can be the end of the Python process that decodes it, and whatever shares a batch with it fails
too, or the whole server's connections where its owner renews it. So a request that was in flight when
something died is tried again alone, and only if that dies again and again is it held to be the cause;
then of several photos in one request each is tried by itself.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from enum import Enum, auto

import grpc

from clip_client import defaults

_PASSING = (
    "Stub process",  # a Python-backend process died; whoever watches the server renews it
    "Failed to obtain the health mutex",  # it died while it was asked how it was
    "is not healthy",
    "has no available versions",  # the server is loading its models, or putting them away
    "Server is stopping",
    "stopped accepting",
)
_DEAD_PROCESS = re.compile(r"Stub process '([^']*)'")
_BROKEN = ("Socket closed", "reset by peer", "Broken pipe")
"""Of a connection over which a request was sent and no answer came."""
_NO_CONNECTION = "last error"
"""gRPC's word before why it could not connect: the request was not sent."""


@dataclass(frozen=True)
class Failure:
    """Why one try failed: gRPC's status, and what was said."""

    status: grpc.StatusCode
    text: str

    @classmethod
    def of(cls, error: grpc.RpcError) -> Failure:
        """Of what a call over a sync or an async channel raised."""
        return cls(error.code(), error.details() or "")

    def __str__(self) -> str:
        return f"[StatusCode.{self.status.name}] {self.text}"

    @property
    def is_denied(self) -> bool:
        """A server, or a gateway before it, that answers and turns this client away: no retry mends that.

        Triton says UNAVAILABLE of a restricted protocol whose header is missing or wrong.
        """
        denied = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
        return self.status in denied or "protocol is restricted" in self.text

    @property
    def is_refusal(self) -> bool:
        """A server behind its load: these are Triton's words for a full queue."""
        return "Exceeds maximum queue size" in self.text

    @property
    def is_away(self) -> bool:
        """No server, or none in time: other photos would fare no better."""
        away = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)
        return self.status in away

    @property
    def is_passing(self) -> bool:
        """Shed load and a server that is away, starting, stopping or about to be renewed.

        Triton answers only the first two with UNAVAILABLE; the others are known by their text.
        """
        unavailable = self.status is grpc.StatusCode.UNAVAILABLE
        return not self.is_denied and (unavailable or any(text in self.text for text in _PASSING))

    @property
    def is_broken(self) -> bool:
        """The server ended, or was ended, while it had this request."""
        sent = self.status is grpc.StatusCode.UNAVAILABLE and _NO_CONNECTION not in self.text
        return sent and any(text in self.text for text in _BROKEN)

    @property
    def is_death(self) -> bool:
        """Something ended that had this request, or that it was sent to."""
        return self.is_broken or self.dead_process is not None

    @property
    def dead_process(self) -> str | None:
        """The name of the Python process that Triton says has died."""
        found = _DEAD_PROCESS.search(self.text)
        return found.group(1) if found else None


class Deaths:
    """The server's processes that are known to be dead, for all requests of a client."""

    def __init__(self) -> None:
        self.known: set[str] = set()

    def is_news(self, failure: Failure) -> bool:
        """Whether something died under this request, as far as failures tell.

        The first to name a process tells of its death, the next ones of a server that is not renewed yet; and
        when that is ended for it, its requests have not died of themselves.
        """
        if failure.status is grpc.StatusCode.UNAVAILABLE and not failure.is_refusal:
            ended_for_it = bool(self.known)
            self.known.clear()  # it starts again, with new processes of the same names
            return failure.is_broken and not ended_for_it
        name = failure.dead_process
        if name is None or name in self.known:
            return False
        self.known.add(name)
        return True


class Verdict(Enum):
    """What to do after a failed try."""

    RETRY = auto()
    BLAME = auto()
    """The server dies of these photos."""
    GIVE_UP = auto()


class Attempts:
    """The tries of one request: a verdict on each failure, and the wait before the next try.

    While `alone` is true it may be the server's death: a try waits until no other request of this client is
    in flight, and none begins beside it. `proof` is the number of deaths then that are held against it.
    `verdict` is on the last failure.
    """

    def __init__(self, deaths: Deaths, *, alone: bool = False, proof: int = defaults.MAX_DEATHS) -> None:
        self._deaths = deaths
        self._proof = proof
        self._pause_s = defaults.RETRY_INITIAL_S
        self.alone = alone
        self.verdict = Verdict.RETRY
        self._deaths_alone = 0

    def judge(self, failure: Failure) -> Verdict:
        """Before another request of the client may begin: it could meet what this one left behind."""
        died = self._deaths.is_news(failure)
        if died and self.alone:
            self._deaths_alone += 1
        self.alone = self.alone or died
        if self._deaths_alone >= self._proof:
            self.verdict = Verdict.BLAME
        else:
            self.verdict = Verdict.RETRY if failure.is_passing else Verdict.GIVE_UP
        return self.verdict

    def pause_s(self) -> float:
        """Jittered exponential back-off."""
        pause, self._pause_s = self._pause_s, min(2 * self._pause_s, defaults.RETRY_MAXIMUM_S)
        return random.uniform(0.0, pause)
