"""The Python backend's regions in /dev/shm, which stay there if tritonserver is killed."""

from __future__ import annotations

import os
import uuid
from contextlib import suppress
from pathlib import Path

import psutil

_FOLDER = Path("/dev/shm")


def new_prefix() -> str:
    """For the regions of one server. It names this process, whose server they are."""
    return f"{_own_prefix()}{os.getpid()}-{uuid.uuid4().hex[:8]}-"


def remove(prefix: str) -> None:
    """Removes the regions of a server whose processes have all ended."""
    for region in _FOLDER.glob(f"{prefix}*"):
        with suppress(OSError):
            region.unlink()


def remove_abandoned() -> None:
    """Removes the regions of processes of ours that ended without removing them."""
    for region in _FOLDER.glob(f"{_own_prefix()}*"):
        pid = region.name.removeprefix(_own_prefix()).partition("-")[0]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            with suppress(OSError):
                region.unlink()


def _own_prefix() -> str:
    """Containers can share /dev/shm and have processes with the same ID."""
    return f"clip-serve-{os.stat('/proc/self/ns/pid').st_ino}-"
