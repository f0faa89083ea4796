"""The server whose stages are measured: one of our own for the while, or one that is running."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from clip_client import ConnectionOptions
from clip_profile.load.connection import connect
from clip_profile.sweep.target import pids_by_role
from clip_serving.repository.stage import InstanceLayout
from clip_serving.server.embedded import ServerOptions, TritonServer

_TRITON, _DOCKER = "tritonserver", "docker-proxy"
_PATIENCE = 2
"""Times in a row that a running server does not say that it lives, until it is held to be dead."""


@dataclass(frozen=True)
class Server:
    """A server that answers.

    `pids` are its processes by role, as far as they can be seen; `local` is whether it surely runs on this
    machine, so that its files and this machine's GPUs are its own. `death` says what became of it, or None.
    """

    name: str
    url: str
    triton: InferenceServerClient
    death: Callable[[], str | None]
    local: bool
    pids: dict[str, list[int]] = field(default_factory=dict)
    layout: InstanceLayout | None = None
    metrics_url: str | None = None
    connection: ConnectionOptions = field(default_factory=ConnectionOptions)


@contextmanager
def embedded(repository: Path, layout: InstanceLayout | None) -> Iterator[Server]:
    """A tritonserver for the block, which is not started again when it dies. Raises ClipServingError."""
    options = ServerOptions(layout=layout, supervise=False)
    with TritonServer(repository, options) as own, InferenceServerClient(own.grpc_url) as client:
        pids = pids_by_role(own.pid, own.stub_pids)
        yield Server("embedded", own.grpc_url, client, own.explain_death, True, pids, own.layout)


@contextmanager
def running(url: str, metrics_url: str | None, connection: ConnectionOptions) -> Iterator[Server]:
    """Somebody's server; whether it is one of ours the first request tells."""
    with connect(url, connection) as client:
        owner = _listener(url)
        death, pids = _Pulse(client, url), _processes(owner)
        yield Server(
            url, url, client, death, owner is not None, pids, metrics_url=metrics_url, connection=connection
        )


def _processes(owner: psutil.Process | None) -> dict[str, list[int]]:
    try:
        if owner is not None and owner.name() == _TRITON:
            return pids_by_role(owner.pid, [child.pid for child in owner.children(recursive=True)])
    except psutil.Error:  # another user's
        pass
    return {}


class _Pulse:
    """Whether a server that is not ours to watch still lives."""

    def __init__(self, client: InferenceServerClient, url: str) -> None:
        self._client, self._url = client, url
        self._missed = 0

    def __call__(self) -> str | None:
        try:
            alive = bool(self._client.is_server_live(client_timeout=5))
        except InferenceServerException:
            alive = False
        self._missed = 0 if alive else self._missed + 1
        return f"the server at {self._url} answers no more" if self._missed >= _PATIENCE else None


def _listener(url: str) -> psutil.Process | None:
    """The process behind a loopback address, if it is a tritonserver or Docker's way to one.

    None for anything else, a tunnel to another machine say, and for another user's processes.
    """
    host, _, port = url.rpartition(":")
    if not port.isdigit() or not _is_loopback(host):
        return None
    try:
        for connection in psutil.net_connections("tcp"):
            here = connection.status == psutil.CONN_LISTEN and connection.laddr.port == int(port)
            if here and connection.pid:
                process = psutil.Process(connection.pid)
                return process if process.name() in (_TRITON, _DOCKER) else None
    except (psutil.Error, OSError):
        pass
    return None


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
