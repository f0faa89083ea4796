"""The container's health check: embeds the reference picture, and ends a server that no longer can.

Triton does not restart a Python process that died, and Docker does not restart a container that is
unhealthy. So after some failures in a row, of a server that was right before, this ends the server;
`restart: unless-stopped` then brings a fresh one. Before the first success nothing is ended: a server
may take long to load, and one that cannot load ends by itself.

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
"""The check's exit status for a server that sheds load: it is alive, and ending it would help nobody."""
_CHECK = "python3 -m clip_client.cli --check 127.0.0.1:8001 --wait 10"


@dataclass
class State:
    """What earlier checks of this container found; it lies in a tmpfs, so a new start begins anew."""

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
        print("ending the server, so that the container is started afresh", file=sys.stderr, flush=True)
        end(options.pid, options.grace)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--check", default=_CHECK, metavar="COMMAND", help="exits 0 when the server embeds rightly")
    add("--timeout", type=float, default=20.0, metavar="SECONDS", help="for one check")
    add("--failures", type=int, default=int(os.environ.get("CLIP_CHECK_FAILURES", "3")), metavar="N")
    add("--grace", type=float, default=15.0, metavar="SECONDS", help="between SIGTERM and SIGKILL")
    add("--state", type=Path, default=Path("/tmp/clip-healthcheck.json"), metavar="FILE")
    add("--pid", type=int, default=1, help="the process to end: the container's init")
    return parser


def check(command: list[str], timeout_s: float) -> str | None:
    """None when the server is right, or busy; otherwise the last line of what the check had to say."""
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
        return f"{command[0]} cannot be run: {error.strerror}"
    if done.returncode in (0, _BUSY):
        return None
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"{command[0]} ended with exit status {done.returncode}"


def end(pid: int, grace_s: float) -> None:
    """SIGTERM to `pid`, an init that passes it on; after `grace_s`, SIGKILL to all its children.

    The kernel keeps SIGKILL from a container's PID 1, so it goes to the server below it, and the
    init ends with it.
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
            # After the name, which may hold anything: ") S PPID ..."
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:  # it ended meanwhile
            continue
        if parent == pid:
            found.append(int(folder.name))
    return found


if __name__ == "__main__":
    sys.exit(main())
