"""Why a call to the server failed, and the error that the caller gets if it cannot be retried."""

from __future__ import annotations

import re
from dataclasses import dataclass

import grpc

from clip_client import defaults
from clip_client.errors import ItemError, ServerBusy, ServerCrash, ServerUnavailable

_RETRYABLE = (
    "Stub process",  # a Python backend process died; the supervisor restarts the server
    "Failed to obtain the health mutex",  # it died during a health check
    "is not healthy",
    "has no available versions",  # the server is loading or unloading its models
    "Server is stopping",
    "stopped accepting",
    _SHM_FULL := "Failed to increase the shared memory pool size",  # /dev/shm is full at the moment
)
_DEAD_PROCESS = re.compile(r"Stub process '([^']*)'")
_HANG_UP = "Socket closed"
_CONNECTION_LOST = (_HANG_UP, "reset by peer", "Broken pipe")
_NOT_SENT = "last error"
"""gRPC's words before the reason for a failed connection: the request was not sent."""
_UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
_UNREACHABLE = (_UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)
_DENIED = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)


@dataclass(frozen=True)
class Failure:
    """Why one call failed: gRPC's status and details."""

    status: grpc.StatusCode
    text: str

    @classmethod
    def of(cls, error: grpc.RpcError) -> Failure:
        """From the exception of a call, over a sync or an async channel."""
        if not hasattr(error, "code"):  # another transport's own error
            return cls(grpc.StatusCode.UNKNOWN, str(error) or type(error).__name__)
        return cls(error.code(), error.details() or "")

    def __str__(self) -> str:
        return f"[StatusCode.{self.status.name}] {self.text}"

    @property
    def is_denied(self) -> bool:
        """The server, or a gateway in front of it, rejects this client. A retry does not help.

        Triton reports a restricted protocol whose header is missing or wrong as UNAVAILABLE.
        """
        return self.status in _DENIED or "protocol is restricted" in self.text

    @property
    def is_overload(self) -> bool:
        """The server's queue is full, in Triton's words."""
        return "Exceeds maximum queue size" in self.text

    @property
    def is_misconfigured(self) -> bool:
        """The address or the certificates are wrong."""
        return self._has_any(_MISCONFIGURED)

    @property
    def is_nobody(self) -> bool:
        """Nothing listens at the address, or nothing that answers gRPC without more options."""
        is_hung_up = self.status is _UNAVAILABLE and _NOT_SENT in self.text and _HANG_UP in self.text
        return is_hung_up or self._has_any(_NOBODY)

    def _has_any(self, known: tuple[tuple[str, str], ...]) -> bool:
        return self.status is _UNAVAILABLE and any(text in self.text for text, _ in known)

    @property
    def is_timeout(self) -> bool:
        """The server took the request and did not answer it in time."""
        return self.status is grpc.StatusCode.DEADLINE_EXCEEDED

    @property
    def is_shared_memory_full(self) -> bool:
        return _SHM_FULL in self.text

    @property
    def is_unreachable(self) -> bool:
        """There is no server, or it did not answer in time. Other photos would fail too."""
        return self.status in _UNREACHABLE

    @property
    def is_retryable(self) -> bool:
        """The server sheds load, or is unreachable, starting, stopping or about to be restarted.

        Triton reports only the first two as UNAVAILABLE; the others are known by their text.
        """
        return not self.is_denied and (
            self.status is _UNAVAILABLE or any(text in self.text for text in _RETRYABLE)
        )

    @property
    def is_away(self) -> bool:
        """The server is down, starting or stopping, or lost a process: another server may do better."""
        return self.is_retryable and not self.is_overload and not self.is_shared_memory_full

    @property
    def is_connection_lost(self) -> bool:
        """The server ended after the request was sent and before it was answered."""
        sent = self.status is _UNAVAILABLE and _NOT_SENT not in self.text
        return sent and any(text in self.text for text in _CONNECTION_LOST)

    @property
    def is_crash(self) -> bool:
        """The server or one of its processes ended before or while it handled this request."""
        return self.is_connection_lost or self.dead_process is not None

    @property
    def dead_process(self) -> str | None:
        """The name of the Python process that is dead according to Triton."""
        found = _DEAD_PROCESS.search(self.text)
        return found.group(1) if found else None


class DeadProcesses:
    """The server's Python processes that are known to be dead, shared by all requests of a client."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def is_new_crash(self, failure: Failure) -> bool:
        """Whether this request may have caused a crash, as far as failures show.

        The first failure that names a process reports its crash. Later ones only show that it was not
        restarted yet, and if the whole server is restarted for it, its requests in flight did not crash it.
        """
        if failure.status is _UNAVAILABLE and not failure.is_overload:
            is_restart = bool(self.names)
            self.names.clear()  # the server starts again, with new processes of the same names
            return failure.is_connection_lost and not is_restart
        name = failure.dead_process
        if name is None or name in self.names:
            return False
        self.names.add(name)
        return True


def server_error(url: str, deadline_s: float, failure: Failure) -> ServerUnavailable | None:
    """The error for a call that failed last with `failure`; None if the server rejected only this call."""
    if failure.is_denied:
        return ServerUnavailable(
            f"the server at {url} rejects this client ({failure}). If it expects a header, pass it with "
            "ConnectionOptions(headers=...) or clip-embed --header NAME:VALUE"
        )
    if failure.is_overload:
        return busy(url, deadline_s)
    if failure.is_unreachable or failure.is_retryable:
        return no_answer(url, deadline_s, str(failure))
    return None


def busy(url: str, deadline_s: float) -> ServerBusy:
    return ServerBusy(
        f"the server at {url} was too busy for {deadline_s:.0f} s: its queue stayed full. Send fewer photos "
        "at once, or give it more instances"
    )


def no_answer(url: str, deadline_s: float, cause: str) -> ServerUnavailable:
    return ServerUnavailable(
        f"no answer from the server at {url} within {deadline_s:.0f} s ({cause}). {_advice(cause)}"
    )


def cannot_connect(url: str, failure: Failure) -> ServerUnavailable:
    """For a first call that another try would not help, at least not soon."""
    return ServerUnavailable(f"cannot connect to {url}: {_advice(failure.text)} ({failure})")


def _advice(cause: str) -> str:
    for text, advice in (*_MISCONFIGURED, *_NOBODY, *_TEMPORARY):
        if text in cause:
            return advice
    if any(text in cause for text in _CONNECTION_LOST):
        return (
            "the connection was closed. Is that Triton's HTTP port? Its gRPC port is usually 8001. "
            "Or does the server require TLS (--ssl) or a client certificate?"
        )
    return "Is it running? Start one with: clip-serve --repository DIR"


_ROOTS = "--root-certificates (ConnectionOptions)"
_MISCONFIGURED = (
    ("certificate has expired", "TLS failed: the server's certificate has expired"),
    ("certificate is not yet valid", "TLS failed: the server's certificate is not valid yet"),
    (
        "CERTIFICATE_VERIFY_FAILED",
        f"TLS failed: the server's certificate is not trusted. Pass its CA with {_ROOTS}",
    ),
    (
        "Hostname Verification Check failed",
        "TLS failed: the server's certificate is for another host name. Use a name that is in it",
    ),
    (
        "WRONG_VERSION_NUMBER",
        "TLS failed: the server does not use TLS on this port. Leave out --ssl, or use its TLS port",
    ),
    ("security handshaker", f"TLS failed: the certificates cannot be used. Check the PEM files of {_ROOTS}"),
    (
        "Tls handshake failed",
        f"TLS failed. Check the certificates: the server's CA with {_ROOTS}, and your own",
    ),
    (
        "Expected SETTINGS frame",
        "it does not speak gRPC. Is that Triton's HTTP port? Use its gRPC port, usually 8001",
    ),
    ("Misformatted domain name", "the address must be host:port"),
    ("Failed to parse port", "the address must be host:port"),
)
"""Parts of gRPC's texts for a wrong address or wrong certificates, and what to do."""
_NOBODY = (
    (
        "Connection refused",
        "nothing listens there. Is it running? Start one with: clip-serve --repository DIR",
    ),
    ("No such file or directory", "nothing listens there. Is it running?"),
    ("errors resolving", "the host name is not known. Check the address"),
    ("DNS resolution failed", "the host name is not known. Check the address"),
)
"""The same for a server that has not started yet, at best."""
_TEMPORARY = (
    (_SHM_FULL, "The server's /dev/shm is full. Restart it, or give it more shared memory (shm_size)"),
)


def item_errors(failure: Failure, count: int) -> list[ItemError]:
    """The errors for the `count` photos of a request that failed because of its photos."""
    if failure.is_timeout:
        text = "not answered within the deadline, nor when sent alone; the server answers other requests"
        return [ItemError("request_timeout", text) for _ in range(count)]
    if failure.is_crash:
        text = f"crashed the server {defaults.MAX_ISOLATED_CRASHES} times when sent alone ({failure})"
        return [ServerCrash("request_failed", text) for _ in range(count)]
    text = f"the server rejected the request: {failure}"
    return [ItemError("request_failed", text) for _ in range(count)]
