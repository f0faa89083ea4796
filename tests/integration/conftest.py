"""Real servers for the tests: at most one tritonserver and one fake-gcs-server per session."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from clip_serving.server.embedded import ServerOptions, TritonServer
from testing.fake_gcs import FakeGcs
from testing.servers import short_lived


@pytest.fixture(scope="session")
def server(small_repository: Path) -> Iterator[TritonServer]:
    """A tritonserver that serves the small tower. A test must leave it as it found it."""
    # In fp32 whatever the CPU has: rows are compared to five digits.
    with short_lived(small_repository, ServerOptions(encoder_precision="fp32")) as running:
        yield running


@pytest.fixture(scope="session")
def fake_gcs() -> Iterator[FakeGcs]:
    with FakeGcs() as running:
        before = os.environ.get("STORAGE_EMULATOR_HOST")
        os.environ["STORAGE_EMULATOR_HOST"] = running.url
        yield running
        if before is None:
            del os.environ["STORAGE_EMULATOR_HOST"]
        else:
            os.environ["STORAGE_EMULATOR_HOST"] = before
