"""What the demo says: numbered steps with their time, a progress line, and the programs that it runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from clip_serving.errors import ClipServingError

_INDENT = "      "
_GRACE_S = 15.0


class DemoError(Exception):
    """A step did not do what it should; the text says the way out."""


class Console:
    """Counts `steps`, and tells the time that each took."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._number = 0
        self._begin = time.monotonic()
        self._width = 0

    @contextmanager
    def step(self, title: str, hint: str) -> Iterator[None]:
        """One numbered step; what fails inside becomes a DemoError with its number and the way out."""
        self._number += 1
        begin = time.monotonic()
        self.line(f"[{self._number}/{self._steps}] {title}", indent="")
        try:
            yield
        except (DemoError, ClipServingError, OSError, RuntimeError) as error:
            raise DemoError(f"step {self._number}, {title}: {error}\n{hint}") from error
        self.line(f"done in {time.monotonic() - begin:.1f} s")

    def line(self, text: str, *, indent: str = _INDENT) -> None:
        self._clear()
        print(f"{indent}{text}", flush=True)

    def progress(self, text: str) -> None:
        """A line that the next one replaces; only on a terminal."""
        if sys.stdout.isatty():
            self._clear()
            self._width = len(_INDENT) + len(text)
            print(f"{_INDENT}{text}", end="", flush=True)

    def elapsed(self) -> float:
        return time.monotonic() - self._begin

    def _clear(self) -> None:
        if self._width:
            print("\r" + " " * self._width + "\r", end="")
            self._width = 0


def run_program(
    command: list[str], *, allowed: tuple[int, ...] = (0,), environment: Mapping[str, str] | None = None
) -> str:
    """Runs a program to its end and returns its standard output; its standard error is ours.

    It ends with this process, whatever ends that. Ctrl-C is passed on, once, and waited for. Raises
    DemoError on an exit status that is not `allowed`.
    """
    name = os.path.basename(command[0])
    if not os.access(command[0], os.X_OK):
        raise DemoError(f"{command[0]} is missing")
    process = subprocess.Popen(
        [sys.executable, "-m", "clip_serving.server.child", str(os.getpid()), *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environment or {})},
        start_new_session=True,
    )
    try:
        output, _ = process.communicate()
    except BaseException:
        _end(process)
        raise
    if process.returncode not in allowed:
        raise DemoError(f"{name} ended with exit status {process.returncode}; what it said is above")
    return output


def _end(process: subprocess.Popen[str]) -> None:
    os.killpg(process.pid, signal.SIGINT)
    try:
        process.communicate(timeout=_GRACE_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
