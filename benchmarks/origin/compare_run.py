"""Runs the benchmark in a process of its own for the columns of `make compare-origin`.

The peers need an environment of their own, and what the benchmark has written by Ctrl-C is still read.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.origin.compare import KEYS, Measured
from clip_profile.console import Console, duration
from clip_profile.errors import ProfileError
from clip_profile.records.machine import Machine

ROOT = Path(__file__).resolve().parents[2]
PYTHON_VARIABLE = "CLIP_BENCH_PYTHON"
_AROUND_S = 25.0
"""Of one service in one pass: its start, warm-up and end."""


@dataclass(frozen=True)
class OriginOptions:
    """`photos` is a folder of JPEGs, None for the benchmark's own; `seconds` of each service and pass."""

    repository: Path
    photos: Path | None
    seconds: float
    passes: int


class Stopped(Exception):  # noqa: N818 - a state, as KeyboardInterrupt is
    """Ctrl-C; `measured` is what was complete by then."""

    def __init__(self, measured: Measured) -> None:
        super().__init__()
        self.measured = measured


def peers_python(root: Path) -> Path:
    """The Python that has the origin's packages; raises ProfileError where it is missing."""
    given = os.environ.get(PYTHON_VARIABLE)
    python = Path(given) if given else root / ".venv-bench" / "bin" / "python"
    if not os.access(python, os.X_OK):
        source = f"{PYTHON_VARIABLE} names it" if given else f"{PYTHON_VARIABLE} may name another"
        raise ProfileError(
            f"{python}, the Python of the origin's service, is missing ({source}). "
            f"`make setup-bench` in {root} makes it, torch among it: some GB, once"
        )
    return python


def measure(options: OriginOptions, console: Console) -> Measured:
    """Everything, pass by pass. Raises ProfileError, and Stopped after Ctrl-C."""
    python = peers_python(ROOT)
    wanted = options.passes * len(KEYS) * (options.seconds + _AROUND_S)
    console.line(f"passes over {len(KEYS)} services: {options.passes}, about {duration(wanted)}")
    with tempfile.TemporaryDirectory(prefix="clip-profile-") as folder:
        data = Path(folder) / "results.json"
        said, stopped = _run(_command(options, data), ROOT, python, console)
        if not data.exists():
            if stopped:
                raise KeyboardInterrupt
            raise ProfileError(f"nothing could be measured: {said}")
        measured = Measured.load(data, Machine.here().memory_gb)
    if stopped:
        raise Stopped(measured)
    return measured


def _command(options: OriginOptions, data: Path) -> list[str]:
    command = [sys.executable, "-m", "benchmarks.run", "--only", *KEYS, "--from-bucket"]
    command += ["--data", str(data), "--repository", str(options.repository.resolve())]
    command += ["--passes", str(options.passes), "--seconds", str(options.seconds)]
    return command + (["--photos", str(options.photos.resolve())] if options.photos else [])


def _run(command: list[str], root: Path, python: Path, console: Console) -> tuple[str, bool]:
    """The program's last words, and whether it was stopped by Ctrl-C.

    In a session of its own, so that Ctrl-C reaches it once and through us; it ends what it has started.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "clip_serving.server.child", str(os.getpid()), *command],
        cwd=root,
        env={**os.environ, PYTHON_VARIABLE: str(python)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    stopped = False
    try:
        said = _relay(process.stderr, console)
    except KeyboardInterrupt:
        for number in (signal.SIGINT, signal.SIGTERM):  # it ends in a bounded time, and must not be cut short
            signal.signal(number, signal.SIG_IGN)
        console.line("stopping what was started ...")
        process.send_signal(signal.SIGINT)
        said, stopped = _relay(process.stderr, console), True
    finally:
        process.stderr.close()
    process.wait()
    return said, stopped


_ERROR = re.compile(r"^[\d:]+ error: ")


def _relay(lines: Iterable[str], console: Console) -> str:
    """Shows them as they come, but for an error, which is the last one; returns that one."""
    last = "it said nothing"
    for line in lines:
        last = line.strip().removeprefix("bench: ")
        if not _ERROR.match(last):
            console.line(last)
    return _ERROR.sub("", last)
