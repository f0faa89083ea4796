"""Processes that end while they are looked at are the server's failure, and no traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from clip_profile.load.perf_analyzer import Load
from clip_profile.load.server import Server
from clip_profile.observe.processes import pids_by_role
from clip_profile.records.measurement import Trial
from clip_profile.sweep.measure import measure
from clip_serving.errors import ServerError
from tests.unit.profile.records import BASE


@pytest.fixture(params=["gone", "zombie"])
def ended(request: pytest.FixtureRequest) -> Iterator[int]:
    """The pid of a process that has ended, waited for or not."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    if request.param == "gone":
        process.wait()
    yield process.pid
    process.wait()


def test_a_stub_that_ends_as_its_server_is_warm(ended: int) -> None:
    with pytest.raises(ServerError, match=f"ended during start-up: .*{ended}"):
        pids_by_role(os.getpid(), [ended])


def test_a_process_that_ends_before_it_is_watched() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    client: Any = SimpleNamespace(get_inference_statistics=lambda **_: SimpleNamespace(model_stats=[]))
    server = Server("gone", "127.0.0.1:1", client, lambda: None, True, {"embed": [process.pid]})
    analyzer: Any = None
    with pytest.raises(ServerError, match=f"is gone: .*{process.pid}"):
        measure(analyzer, server, Trial(BASE, None, "closed"), Load("closed", 1.0, 1, concurrency=1))
