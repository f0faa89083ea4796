"""Runs a program that ends when the process that started it ends, even by SIGKILL.

A small Python process starts the program: the setting must be made inside the new process, and subprocess's
`preexec_fn` isn't safe in a program with threads.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1


def child_command(command: Sequence[str]) -> list[str]:
    """The command line for subprocess that runs `command`, a program's path and its arguments."""
    return [sys.executable, "-m", "clip_serving.server.child_process", str(os.getpid()), *command]


def main() -> None:
    parent = int(sys.argv[1])
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:  # it ended before the kernel had the setting
        sys.exit(1)
    os.execv(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
