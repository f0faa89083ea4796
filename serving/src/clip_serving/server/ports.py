"""Ports for the embedded server."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from clip_serving.errors import ServerError


def reserve(host: str, wanted: Sequence[int]) -> list[int]:
    """`wanted`, with a free port of `host` in place of each 0. No two are the same.

    Raises ServerError for a port that is in use, or wanted twice.
    """
    if twice := [port for port in set(wanted) - {0} if list(wanted).count(port) > 1]:
        raise ServerError(
            f"port {twice[0]} is given twice. gRPC, HTTP and metrics need different ports; 0 picks a free one"
        )
    sockets = []
    try:
        for port in wanted:
            probe = socket.socket()
            sockets.append(probe)
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                raise ServerError(
                    f"cannot use port {port} on {host} ({error.strerror}). Is another server running? "
                    "Choose other ports, or 0 for a free one."
                ) from error
        return [probe.getsockname()[1] for probe in sockets]
    finally:
        for probe in sockets:
            probe.close()
