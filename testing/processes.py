"""Programs that end with the block that started them, and with this process."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import IO

import psutil

from clip_serving.server.child_process import child_command
from clip_serving.server.processes import alive

_GRACE_S = 10.0


@contextmanager
def running(
    command: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    stdout: int | IO[bytes] = subprocess.DEVNULL,
    stderr: int | IO[bytes] | None = subprocess.DEVNULL,
    cwd: Path | None = None,
    end_with: signal.Signals = signal.SIGTERM,
) -> Iterator[subprocess.Popen[bytes]]:
    """A program that ends, its children included, with the block and also with this process.

    It has a session of its own: a terminal's Ctrl-C does not reach it. `end_with` is the first signal that it
    gets; ten seconds later it is killed.
    """
    process = subprocess.Popen(
        child_command(command),
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
        _end(process, end_with)
        if process.stdout is not None:
            process.stdout.close()


def _end(process: subprocess.Popen[bytes], end_with: signal.Signals) -> None:
    members = _family(process.pid)
    if process.poll() is None:
        process.send_signal(end_with)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for member in members:  # those that began a session of their own
        with suppress(psutil.NoSuchProcess):
            member.kill()
    psutil.wait_procs(members, timeout=5)
    process.wait()


def _family(root: int) -> list[psutil.Process]:
    """The process and all its descendants, if it is still there."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(root)
        return [process, *process.children(recursive=True)]
    return []


def all_gone(processes: Sequence[psutil.Process], timeout: float) -> bool:
    """Whether all end within `timeout` seconds; a zombie has ended, even if no parent waits for it."""
    end = time.monotonic() + timeout
    while any(map(alive, processes)):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def interrupt_once() -> None:
    """From now on Ctrl-C and SIGTERM raise KeyboardInterrupt, once: ending takes a bounded time, and a second
    Ctrl-C must not cut it short."""

    def interrupt(signum: int, frame: FrameType | None) -> None:
        del signum, frame
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
