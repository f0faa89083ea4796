"""A real server, planned jobs and Ray for the tests of engines, whose environment is not the server's."""

from __future__ import annotations

import io
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from clip_batch import PlanOptions, make_plan, open_listing, open_storage
from testing.processes import running

OBJECTS = 200
BROKEN = 4


@pytest.fixture(scope="session")
def server(small_repository: Path) -> Iterator[str]:
    """The address of a tritonserver that serves the small tower."""
    ports = ("--grpc-port", "0", "--http-port", "0", "--metrics-port", "0")
    command = [os.environ["CLIP_SERVE"], "--repository", str(small_repository), *ports, "--json"]
    with running(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["grpc_url"]


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for index in range(OBJECTS):
        file = io.BytesIO()
        Image.new("RGB", (64, 48), (index, 255 - index, 99)).save(file, "JPEG")
        data = b"no photo" if index % (OBJECTS // BROKEN) == 7 else file.getvalue()
        (folder / f"{index:03}.jpg").write_bytes(data)
    return folder


@pytest.fixture
def plan(photos: Path, tmp_path: Path) -> Callable[[int], Path]:
    """Plans the photos in partitions of a size; returns OUT."""

    def planned(size: int) -> Path:
        out = tmp_path / "out"
        storage = open_storage(str(out))
        make_plan(storage, [open_listing(str(photos), out=storage.uri)], PlanOptions(partition_size=size))
        return out

    return planned


@pytest.fixture(scope="session")
def ray_environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Variables for Ray's commands: nothing is written to the home folder or sent anywhere."""
    token = tmp_path_factory.mktemp("ray") / "token"
    token.write_text(os.urandom(32).hex())
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
