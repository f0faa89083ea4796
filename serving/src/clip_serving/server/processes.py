"""The processes of an embedded tritonserver: finds them, and describes how they ended."""

from __future__ import annotations

import os
import signal

import psutil

from clip_serving.errors import ServerError

_STUB = "triton_python_backend_stub"


def stubs_of(server: int) -> list[psutil.Process]:
    """The Python backend's processes, children of `server`. Raises ServerError if the server has ended."""
    try:
        children = psutil.Process(server).children(recursive=True)
        return [child for child in children if _STUB in child.name() or _STUB.startswith(child.name())]
    except psutil.NoSuchProcess as error:
        raise ServerError("tritonserver ended right after it became ready") from error


def alive(process: psutil.Process) -> bool:
    """Whether it runs; a zombie does not."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def group_of(leader: int) -> list[psutil.Process]:
    """All processes of the session that `leader` started, itself included."""
    members = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == leader:
                members.append(process)
        except (psutil.NoSuchProcess, ProcessLookupError, PermissionError):
            continue
    return members


def describe_exit(status: int) -> str:
    """Popen.returncode in words."""
    return f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
