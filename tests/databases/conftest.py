"""A real PostgreSQL with pgvector for the tests of databases."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URI of a server on a Unix socket."""
    # Not below tmp_path: a socket's path has at most 107 bytes, and root's server runs as another user.
    with tempfile.TemporaryDirectory(prefix="pg-", ignore_cleanup_errors=True) as folder:
        runtime = Path(folder) / "runtime"
        runtime.mkdir(mode=0o700)
        os.environ.setdefault("XDG_RUNTIME_DIR", str(runtime))  # for pgserver's lock; a container has none
        import pgserver

        server = pgserver.get_server(Path(folder) / "data")
        yield server.get_uri()
        server.cleanup()
