"""Fixtures for the tests that need open_clip; servers are started through the real command."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from testing import towers

towers.register()


@pytest.fixture(scope="session")
def grpc_url(repository: Path) -> Iterator[str]:
    """A server at the exact quality."""
    with served(repository, "exact") as url:
        yield url


@contextmanager
def served(repository: Path, quality: str) -> Iterator[str]:
    """`clip-serve` runs in the environment that has tritonserver; this one has open_clip."""
    ports = ["--grpc-port", "0", "--http-port", "0", "--metrics-port", "0"]
    program = os.environ.get("CLIP_SERVE", "clip-serve")
    model = ["--repository", str(repository), "--quality", quality, "--encoder-precision", "fp32"]
    command = [program, *model, "--json", *ports]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, "clip-serve did not become ready; its message is above"
        yield json.loads(line)["grpc_url"]
    finally:
        process.terminate()
        process.communicate()
