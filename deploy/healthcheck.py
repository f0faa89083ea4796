"""The container's health check: embeds the reference picture, and ends a server that fails repeatedly.

Triton does not restart a Python process that died, and Docker does not restart an unhealthy container. So if
a server that passed before fails several times in a row, this script ends it, and `restart: unless-stopped`
starts a new one. Before the first success it ends nothing: a server may take long to load, and one that
cannot load exits by itself.

Standard library only. Exit status: 0 healthy, 1 not.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

_BUSY = 3
"""The check's exit status for a server that sheds load: it is alive, and a restart would not help."""
_CHECK = "python3 -m clip_client.cli --check 127.0.0.1:8001 --wait 10"


@dataclass
class State:
    """What earlier checks of this container found. The file is in a tmpfs: a restart clears it."""

    was_right: bool = False
    failures: int = 0

    @classmethod
    def read(cls, path: Path) -> State:
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            return cls(was_right=bool(values["was_right"]), failures=int(values["failures"]))
        except (OSError, ValueError, KeyError, TypeError):
            return cls()

    def write(self, path: Path) -> None:
        temporary = path.with_name(f"{path.name}.{os.getpid()}")
        temporary.write_text(json.dumps(asdict(self)), encoding="utf-8")
        os.replace(temporary, path)


def main(argv: list[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    state = State.read(options.state)
    message = check(shlex.split(options.check), options.timeout)
    if message is None:
        State(was_right=True).write(options.state)
        return 0
    state.failures += 1
    state.write(options.state)
    print(f"unhealthy ({state.failures} in a row): {message}", file=sys.stderr, flush=True)
    if state.was_right and state.failures >= options.failures:
        print("ending the server so that the container restarts", file=sys.stderr, flush=True)
        end(options.pid, options.grace)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--check", default=_CHECK, metavar="COMMAND", help="exits 0 if the server embeds correctly")
    add(
        "--timeout",
        type=float,
        default=20.0,
        metavar="SECONDS",
        help="time limit for one check (default: %(default)g)",
    )
    add("--failures", type=int, default=int(os.environ.get("CLIP_CHECK_FAILURES", "3")), metavar="N")
    add(
        "--grace",
        type=float,
        default=15.0,
        metavar="SECONDS",
        help="time between SIGTERM and SIGKILL (default: %(default)g)",
    )
    add("--state", type=Path, default=Path("/tmp/clip-healthcheck.json"), metavar="FILE")
    add("--pid", type=int, default=1, help="the process to end: the container's init")
    return parser


def check(command: list[str], timeout_s: float) -> str | None:
    """None if the server is correct or busy; otherwise the last line of the check's output."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {timeout_s:.0f} s"
    except OSError as error:
        return f"cannot run {command[0]}: {error.strerror}"
    if done.returncode in (0, _BUSY):
        return None
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"{command[0]} ended with exit status {done.returncode}"


def end(pid: int, grace_s: float) -> None:
    """Sends SIGTERM to `pid`, an init that forwards it; after `grace_s`, SIGKILL to all its children.

    The kernel does not deliver SIGKILL to a container's PID 1, so the server below it gets the signal, and
    the init exits with it.
    """
    try:
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + grace_s
        while time.monotonic() < deadline:
            os.kill(pid, 0)
            time.sleep(0.1)
        for child in children(pid):
            os.kill(child, signal.SIGKILL)
    except ProcessLookupError:
        return


def children(pid: int) -> list[int]:
    """The processes whose parent is `pid`."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            # After the name, which may contain anything: ") S PPID ..."
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:  # it ended meanwhile
            continue
        if parent == pid:
            found.append(int(folder.name))
    return found


if __name__ == "__main__":
    sys.exit(main())
