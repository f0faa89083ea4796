"""A time limit for everything that a thread reads over HTTP.

The timeouts of requests bound only the wait for the next bytes: a server that sends a byte per second holds
a download for hours. Here, every read from a socket ends at the thread's deadline, also within headers.
"""

from __future__ import annotations

import io
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPResponse
from typing import Any

import requests
import requests.adapters
import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection


class DeadlineExceeded(Exception):  # noqa: N818 - named as gRPC's
    """The thread's deadline has passed. No OSError, because urllib3 and Google's libraries retry those."""


class _Deadline(threading.local):
    at: float | None = None


_deadline = _Deadline()


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Within the block, reads of this thread raise DeadlineExceeded after `seconds`."""
    _deadline.at = time.monotonic() + seconds
    try:
        yield
    finally:
        _deadline.at = None


class DeadlineAdapter(requests.adapters.HTTPAdapter):
    """An HTTPAdapter whose reads end at the thread's deadline."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(*args, **kwargs)
        manager.pool_classes_by_scheme = _POOLS
        return manager


def limit_reads(session: requests.Session, connections: int) -> None:
    """Has all reads of the session end at the thread's deadline, and keeps up to `connections` open."""
    adapter = DeadlineAdapter(pool_connections=connections, pool_maxsize=connections)
    for scheme in ("https://", "http://"):
        session.mount(scheme, adapter)


class _Reader(io.RawIOBase):
    """Reads from a socket until the thread's deadline."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket) -> None:
        self._raw, self._sock = raw, sock

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if _deadline.at is None:
            return self._raw.readinto(buffer)
        left, stall = _deadline.at - time.monotonic(), self._sock.gettimeout()
        if left <= 0:
            raise DeadlineExceeded
        is_last = stall is None or left < stall
        self._sock.settimeout(left if is_last else stall)
        try:
            return self._raw.readinto(buffer)
        except TimeoutError:
            if is_last:
                raise DeadlineExceeded from None
            raise
        finally:
            self._sock.settimeout(stall)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp = io.BufferedReader(_Reader(self.fp.detach(), sock))


class _HTTPConnection(HTTPConnection):
    response_class = _Response


class _HTTPSConnection(HTTPSConnection):
    response_class = _Response


class _HTTPPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _HTTPConnection


class _HTTPSPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _HTTPSConnection


_POOLS = {"http": _HTTPPool, "https": _HTTPSPool}
