"""The demo's numbered steps, and the programs that they run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from clip_profile.console import Console
from clip_serving.errors import ClipServingError
from testing.processes import running

_INDENT = "      "


class DemoError(Exception):
    """A step failed; the text says what to do."""


class Steps(Console):
    """Numbers `total` steps on standard output, and shows the time that each took."""

    def __init__(self, total: int) -> None:
        super().__init__(sys.stdout)
        self._total, self._number = total, 0
        self._begin = time.monotonic()

    @contextmanager
    def step(self, title: str, hint: str) -> Iterator[None]:
        """One step; what fails inside becomes a DemoError with its number and the hint."""
        self._number += 1
        begin = time.monotonic()
        self.line(f"[{self._number}/{self._total}] {title}", indent="")
        try:
            yield
        except (DemoError, ClipServingError, OSError, RuntimeError) as error:
            raise DemoError(f"step {self._number}, {title}: {error}\n{hint}") from error
        self.line(f"done in {time.monotonic() - begin:.1f} s")

    def line(self, text: str = "", *, indent: str = _INDENT) -> None:
        super().line(indent + text)

    def doing(self, text: str) -> None:
        super().doing(_INDENT + text)

    def elapsed_s(self) -> float:
        return time.monotonic() - self._begin


def run_program(
    command: list[str], *, allowed: tuple[int, ...] = (0,), environment: Mapping[str, str] | None = None
) -> str:
    """Runs a program to its end and returns its standard output; its standard error is ours.

    Ctrl-C is passed on, and waited for. Raises DemoError on an exit status that is not `allowed`.
    """
    return _run(command, allowed, environment)[1]


def run_to_status(command: list[str], *, allowed: tuple[int, ...]) -> int:
    """As run_program, but returns the exit status."""
    return _run(command, allowed)[0]


def _run(
    command: list[str], allowed: tuple[int, ...], environment: Mapping[str, str] | None = None
) -> tuple[int, str]:
    if not os.access(command[0], os.X_OK):
        raise DemoError(f"{command[0]} is missing")
    with running(
        command, environment=environment, stdout=subprocess.PIPE, stderr=None, end_with=signal.SIGINT
    ) as process:
        output, _ = process.communicate()
    if process.returncode not in allowed:
        name = os.path.basename(command[0])
        raise DemoError(f"{name} ended with exit status {process.returncode}; its message is above")
    return process.returncode, output.decode()
