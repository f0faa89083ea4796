"""The container's health check: embeds the reference picture, and ends a server that is broken.

With CLIP_TIER, it checks what a server of that tier does: a decode tier decodes the picture.

Triton does not restart a Python process that died, and Docker does not restart an unhealthy container. So
this script ends the server, and `restart: unless-stopped` starts a new one: at once if one of its Python
processes has died, because the requests to that process fail while the others go on; and after several
failures in a row of a server that passed before. Before the first success it ends nothing: a server may take
long to load, and one that cannot load exits by itself.

Standard library only. Exit status: 0 healthy, 1 not.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

_BUSY = 3
"""The check's exit status for a server that sheds load: it is alive, and a restart would not help."""
_LEAST_SHARED_MEMORY = 32 << 20
"""Bytes; less than that is full. A region grows by the size of a batch."""
_CHECK = "python3 -m clip_client.cli --check 127.0.0.1:8001 --wait 10"


@dataclass
class State:
    """What earlier checks of this run of the server found: the init `started` at this time after boot."""

    started: int = 0
    was_right: bool = False
    failures: int = 0
    processes: int = 0
    """Python processes of the server when it was right."""

    @classmethod
    def read(cls, path: Path, started: int) -> State:
        """Of an earlier run, nothing is kept."""
        try:
            state = cls(**json.loads(path.read_text(encoding="utf-8")))
            return state if state.started == started else cls(started)
        except (OSError, ValueError, TypeError):
            return cls(started)

    def write(self, path: Path) -> None:
        temporary = path.with_name(f"{path.name}.{os.getpid()}")
        temporary.write_text(json.dumps(asdict(self)), encoding="utf-8")
        os.replace(temporary, path)


def main(argv: list[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    state = State.read(options.state, started(options.pid))
    alive = python_processes(options.pid)
    has_dead_process = alive < state.processes
    if has_dead_process:
        message: str | None = f"{state.processes - alive} of {state.processes} Python processes have died"
    else:
        message = check(shlex.split(options.check), options.timeout)
    if message is None:
        State(state.started, was_right=True, processes=alive).write(options.state)
        return 0
    state.failures += 1
    state.write(options.state)
    text = f"unhealthy ({state.failures} in a row): {message}{about_shared_memory()}"
    print(text, file=sys.stderr, flush=True)
    if options.report_only:
        return 1
    if state.was_right and (has_dead_process or state.failures >= options.failures):
        print("ending the server so that the container restarts", file=sys.stderr, flush=True)
        end(options.pid, options.grace)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    tier = os.environ.get("CLIP_TIER")
    command = f"{_CHECK} --tier {tier}" if tier else _CHECK
    add("--check", default=command, metavar="COMMAND", help="exits 0 if the server embeds correctly")
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
    add("--report-only", action="store_true", help="end nothing: Kubernetes restarts the container itself")
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


def about_shared_memory(folder: str = "/dev/shm") -> str:
    """A hint if photos may fail because no shared memory is left."""
    try:
        disk = shutil.disk_usage(folder)
    except OSError:
        return ""
    least = min(_LEAST_SHARED_MEMORY, disk.total // 20)
    return "" if disk.free >= least else f". {folder} is full ({disk.total >> 20} MiB): raise shm_size"


def children(pid: int) -> list[int]:
    """The processes whose parent is `pid`."""
    return [int(folder.name) for folder, stat in processes() if int(stat[1]) == pid]


def python_processes(pid: int) -> int:
    """How many processes of Triton's Python backend run below `pid`."""
    found = {int(folder.name): (folder, stat) for folder, stat in processes()}
    count = 0
    for folder, stat in found.values():
        parent = int(stat[1])
        while parent in found and parent != pid:
            parent = int(found[parent][1][1])
        count += parent == pid and stat[0] not in "ZX" and is_stub(folder)
    return count


def is_stub(folder: Path) -> bool:
    try:
        return b"triton_python_backend_stub" in (folder / "cmdline").read_bytes()
    except OSError:  # it ended meanwhile
        return False


def started(pid: int) -> int:
    """When it started, in clock ticks after the boot; 0 if it does not run."""
    return next((int(stat[19]) for folder, stat in processes() if int(folder.name) == pid), 0)


def processes() -> Iterator[tuple[Path, list[str]]]:
    """The folder in /proc of each process and the fields of its stat after the name: state, parent, ..."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                # The name may contain anything.
                yield folder, (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it ended meanwhile
                continue


if __name__ == "__main__":
    sys.exit(main())
