"""Real servers for the tests: one tritonserver and one fake-gcs-server a session."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from clip_serving.server.embedded import ServerOptions, TritonServer
from testing.fake_gcs import FakeGcs


@pytest.fixture(scope="session")
def server(repository: Path) -> Iterator[TritonServer]:
    # In fp32 whatever the CPU has: rows are compared to five digits.
    with TritonServer(repository, ServerOptions(encoder_precision="fp32", supervise=False)) as running:
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
