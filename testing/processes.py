"""Starts what the benchmark needs and ends all of it; counts what a family of processes uses."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import psutil

_POLL_S = 0.2
_GRACE_S = 10.0


@contextmanager
def running(
    command: Sequence[str],
    *,
    environment: dict[str, str] | None = None,
    stdout: int | IO[bytes] = subprocess.DEVNULL,
    stderr: int | IO[bytes] = subprocess.DEVNULL,
    cwd: Path | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """A program that ends, its children included, with the block and also with this process."""
    process = subprocess.Popen(
        [sys.executable, "-m", "clip_serving.server.child", str(os.getpid()), *command],
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        env={**os.environ, **(environment or {})},
        cwd=cwd,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM to the program, then SIGKILL to whatever is left of its session."""
    members = family([process.pid])
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for member in members:  # those that began a session of their own
        with suppress(psutil.NoSuchProcess):
            member.kill()
    psutil.wait_procs(members, timeout=5)
    process.wait()


def family(roots: Sequence[int]) -> list[psutil.Process]:
    """The processes and all their descendants that live."""
    members: dict[int, psutil.Process] = {}
    for root in roots:
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(root)
            for member in (process, *process.children(recursive=True)):
                members[member.pid] = member
    return list(members.values())


def all_gone(processes: list[psutil.Process], timeout: float) -> bool:
    """Whether all have ended within `timeout` seconds; a zombie has."""
    _, alive = psutil.wait_procs(processes, timeout=timeout)
    return not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


def cpu_seconds(roots: Sequence[int]) -> float:
    """CPU time of the family so far, user and system."""
    total = 0.0
    for member in family(roots):
        with suppress(psutil.NoSuchProcess):
            times = member.cpu_times()
            total += times.user + times.system
    return total


def machine_cpu_seconds() -> float:
    """CPU time of the whole machine so far, what its host took from it included."""
    times = psutil.cpu_times()
    idle: float = times.idle + times.iowait
    return float(sum(times[:8])) - idle


def resident_bytes(roots: Sequence[int]) -> int:
    """The sum of the family's resident sets: a page that two share counts twice."""
    total = 0
    for member in family(roots):
        with suppress(psutil.NoSuchProcess):
            total += member.memory_info().rss
    return total


class PeakMemory:
    """Watches families of processes, in a thread, and remembers the most that each held."""

    def __init__(self, families: dict[str, Callable[[], Sequence[int]]]) -> None:
        self._families = families
        self.peak = dict.fromkeys(families, 0)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(_POLL_S):
            for name, roots in self._families.items():
                self.peak[name] = max(self.peak[name], resident_bytes(roots()))
