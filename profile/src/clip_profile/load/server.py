"""The server under load: one that we start for the measurement, or one that is already running."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from pathlib import Path

import psutil
from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from clip_client import ConnectionOptions
from clip_profile.load.connection import connect
from clip_profile.observe.processes import pids_by_role
from clip_serving.errors import ServerError
from clip_serving.repository.stage import InstanceLayout
from clip_serving.server.arguments import admin_headers
from clip_serving.server.embedded import ServerOptions, TritonServer

_TRITON, _DOCKER = "tritonserver", "docker-proxy"
_PATIENCE = 2
"""Health checks that must fail in a row before a running server is considered dead."""


@dataclass(frozen=True)
class Server:
    """A server that answers.

    `pids` are its visible processes by role. `local` is True if it certainly runs on this machine, with these
    files and GPUs. `death` explains why the server has died, or returns None.
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
def embedded(repository: Path, options: ServerOptions) -> Iterator[Server]:
    """A tritonserver for the block. Raises ClipServingError."""
    with (
        TritonServer(repository, options) as own,
        connect(own.grpc_url, ConnectionOptions(headers=own.admin_headers)) as client,
    ):
        pids = pids_by_role(own.pid, own.stub_pids)
        yield Server(
            "embedded", own.grpc_url, client, own.explain_death, True, pids, own.layout, own.metrics_url
        )


@contextmanager
def running(url: str, metrics_url: str | None, connection: ConnectionOptions) -> Iterator[Server]:
    """A server that is already running; the first request checks whether it is one of ours."""
    owner = _listener(url)
    with connect(url, replace(connection, headers={**_admin_headers(owner), **connection.headers})) as client:
        yield Server(
            url, url, client, _HealthCheck(client, url), owner is not None, _processes(owner),
            metrics_url=metrics_url, connection=connection,
        )  # fmt: skip


def _admin_headers(owner: psutil.Process | None) -> dict[str, str]:
    """The header for tracing, for whoever may see the server's command line."""
    try:
        return admin_headers(owner.cmdline()) if owner is not None else {}
    except psutil.Error:
        return {}


class _HealthCheck:
    """Of a server that was not started here."""

    def __init__(self, client: InferenceServerClient, url: str) -> None:
        self._client, self._url = client, url
        self._missed = 0

    def __call__(self) -> str | None:
        try:
            alive = bool(self._client.is_server_live(client_timeout=5))
        except InferenceServerException:
            alive = False
        self._missed = 0 if alive else self._missed + 1
        return f"the server at {self._url} no longer answers" if self._missed >= _PATIENCE else None


def _processes(owner: psutil.Process | None) -> dict[str, list[int]]:
    """Process IDs by role; empty if the server is in a container or belongs to another user."""
    try:
        if owner is not None and owner.name() == _TRITON:
            return pids_by_role(owner.pid, [child.pid for child in owner.children(recursive=True)])
    except (psutil.Error, ServerError):
        pass
    return {}


def _listener(url: str) -> psutil.Process | None:
    """The process that listens at a loopback address, if it is a tritonserver or Docker's proxy to one.

    None for anything else, such as a tunnel to another machine, and for another user's processes.
    """
    host, _, port = url.rpartition(":")
    try:
        if host == "localhost" or ip_address(host.strip("[]")).is_loopback:
            for one in psutil.net_connections("tcp"):
                if one.status == psutil.CONN_LISTEN and one.laddr.port == int(port) and one.pid:
                    process = psutil.Process(one.pid)
                    return process if process.name() in (_TRITON, _DOCKER) else None
    except (psutil.Error, OSError, ValueError):  # a host name, say
        pass
    return None
