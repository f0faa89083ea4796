"""Serves the page on the loopback interface."""

from __future__ import annotations

import socket
from collections.abc import Callable

import uvicorn

from clip_search.errors import SearchError
from clip_search.page.app import Page, app_of


def serve(page: Page, port: int, on_ready: Callable[[str], None]) -> None:
    """Serves until Ctrl-C, which raises KeyboardInterrupt. Port 0 takes a free one. Raises SearchError.

    `on_ready` gets the page's address when connections are accepted.
    """
    app = app_of(page)
    try:
        listening = socket.create_server(("127.0.0.1", port))
    except OSError as error:
        raise SearchError(
            f"cannot listen on 127.0.0.1:{port}: {error.strerror}. Choose another port: --port N"
        ) from error
    with listening:
        on_ready(f"http://127.0.0.1:{listening.getsockname()[1]}/")
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, lifespan="off", timeout_graceful_shutdown=5
        )
        uvicorn.Server(config).run(sockets=[listening])
