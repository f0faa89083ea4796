"""The real rclone as a server of a local folder: S3-compatible, or plain HTTP."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from clip_serving.server.ports import reserve
from testing.processes import running
from testing.waiting import wait_until

KEY, SECRET = "clip-key", "clip-secret"
LOGIN = ("--auth-key", f"{KEY},{SECRET}")
"""For S3."""


@contextmanager
def rclone_server(kind: Literal["s3", "http"], folder: Path, *options: str) -> Iterator[str]:
    """The server's URL. Each folder in `folder` is a bucket of S3. Public, unless LOGIN is in the options."""
    (port,) = reserve("127.0.0.1", [0])
    program = Path(sys.executable).with_name("rclone")
    # Without a cache, changes of the folder are seen at once.
    command = [program, "serve", kind, folder, "--addr", f"127.0.0.1:{port}", "--dir-cache-time", "0s"]
    environment = {"RCLONE_CONFIG": ""}
    with running([*map(str, command), *options], environment=environment):
        wait_until(lambda: _answers(port), f"rclone serve {kind} listens")
        yield f"http://127.0.0.1:{port}"


def _answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0
