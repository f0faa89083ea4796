"""Real tritonservers for tests that are not about how a server stops."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clip_serving.server.embedded import ServerOptions, TritonServer


@contextmanager
def short_lived(repository: Path, options: ServerOptions | None = None) -> Iterator[TritonServer]:
    """A TritonServer without supervision that is killed at the end: Triton takes three seconds to stop."""
    unsupervised = dataclasses.replace(options or ServerOptions(), supervise=False)
    with TritonServer(repository, unsupervised) as server:
        yield server
        os.kill(server.pid, signal.SIGKILL)
