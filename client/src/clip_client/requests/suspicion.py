"""The decision after a failed try: whether a request is retried, isolated, blamed or given up.

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

from enum import Enum, auto

from clip_client import defaults
from clip_client.requests.failures import DeadProcesses, Failure
from clip_client.requests.servers import Server, Servers


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
    their own. The request was late on the servers `late_on`. It failed on those to `avoid`, so that it should
    be sent to others.
    """

    def __init__(self, *, isolated: bool, crashes_to_blame: int, alone: bool = False) -> None:
        self.is_isolated = isolated
        self.is_alone = alone
        self.late_on: set[Server] = set()
        self.avoid: set[Server] = set()
        self._crashes_left = crashes_to_blame
        self._rejections_left = defaults.SHARED_REJECTIONS

    def failed_on(self, server: Server, servers: Servers) -> None:
        self.avoid.add(server)
        if len(self.avoid) == len(servers.all):  # begin again, with the one that failed longest ago
            self.avoid = {server}

    def decide(self, failure: Failure, dead: DeadProcesses) -> Decision:
        """`dead` are processes of the server that failed.

        Call it before releasing the request's slot, because another request could see the same crash.
        """
        if failure.is_timeout:
            return self._decide_late()
        has_crashed, was_isolated = dead.is_new_crash(failure), self.is_isolated
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
