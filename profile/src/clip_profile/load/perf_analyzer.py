"""Runs NVIDIA's perf_analyzer at one load, and never leaves it behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clip_client import ConnectionOptions
from clip_profile.errors import ProfileError, WindowTooShort
from clip_profile.load.connection import perf_analyzer_arguments, redacted
from clip_profile.load.perf_files import REPORT, REQUESTS, Report, read_latencies_ms, read_report
from clip_profile.records.measurement import Arrival
from clip_serving import defaults
from clip_serving.errors import ServerError
from clip_serving.server import perf_analyzer, runtime
from clip_serving.server.child_process import child_command

_WINDOWS = 3
"""perf_analyzer reports its last three; `-s 999` makes it accept any difference between them."""
_INTERVALS = "intervals.txt"
_MOST_RECORDED = 256 * 1024 * 1024
"""Bytes of photos that perf_analyzer may write down with the requests (see perf_files)."""
_TOO_SHORT = ("larger time window", "failed to find the requested model version")
VERSION = perf_analyzer.WHEEL.rpartition("=")[2]


@dataclass(frozen=True)
class Load:
    """`concurrency` requests in flight, or arrivals at `rate` requests per second, for `seconds` in all.

    `seed` fixes the arrivals: all settings of a round get the same. perf_analyzer's own Poisson arrivals have
    a single seed, whose beginning is a third too slow.
    """

    arrival: Arrival
    seconds: float
    request_batch: int
    concurrency: int = 0
    rate: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class Outcome:
    """`latencies_ms` is empty unless every request was recorded."""

    report: Report
    latencies_ms: tuple[float, ...]
    command: tuple[str, ...]


class PerfAnalyzer:
    """The binary and its environment. Raises ProfileError if it is missing or has another version."""

    def __init__(self, photos: Path, mean_bytes: int, connection: ConnectionOptions) -> None:
        """`photos` is its --input-data file, whose photos have `mean_bytes` each."""
        try:
            self._binary = perf_analyzer.prepare()
            self._environment = runtime.prepare().environment()
        except ServerError as error:
            raise ProfileError(f"perf_analyzer is missing: {error}") from error
        self._photos, self._mean_bytes, self._connection = photos, mean_bytes, connection
        self._check_version()

    def run(self, url: str, load: Load, folder: Path, on_start: Callable[[int], None]) -> Outcome:
        """Loads the server at `url`; the files go into `folder`. Raises ProfileError, WindowTooShort."""
        recorded = load.rate * load.seconds * load.request_batch * self._mean_bytes
        record = load.arrival == "poisson" and recorded <= _MOST_RECORDED
        command = [str(self._binary), *self._arguments(url, load, folder, record=record)]
        status, output = _run(command, folder, self._environment, 60 + 6 * load.seconds, on_start)
        if status != 0:
            too_short = any(text in output for text in _TOO_SHORT)
            error = WindowTooShort if too_short else ProfileError
            raise error(f"perf_analyzer: {_last_line(output)} (exit status {status})")
        latencies = read_latencies_ms(folder / REQUESTS) if record else ()
        return Outcome(read_report(folder), latencies, self._shown(command[1:], folder))

    def _shown(self, arguments: Sequence[str], folder: Path) -> tuple[str, ...]:
        """The command for people: without temporary folders and without secrets."""
        names = {str(self._photos): "photos.json", str(folder / _INTERVALS): _INTERVALS}
        words = ["clip-perf-analyzer", *(names.get(word, word) for word in arguments)]
        return redacted(words, self._connection.headers.items())

    def _arguments(self, url: str, load: Load, folder: Path, *, record: bool) -> list[str]:
        window_ms = max(1, round(load.seconds / _WINDOWS * 1000))
        arguments = [
            *("-m", defaults.ENSEMBLE, "-i", "grpc", "-u", url, "--async"),
            *perf_analyzer_arguments(self._connection),
            *("--input-data", str(self._photos), "-b", str(load.request_batch)),
            *("--measurement-mode", "time_windows", "-p", str(window_ms)),
            *("-s", "999", "-r", str(_WINDOWS), "-f", REPORT, "--verbose-csv"),
        ]
        if load.arrival == "closed":
            arguments += ["--concurrency-range", f"{load.concurrency}:{load.concurrency}:1"]
        else:
            intervals = folder / _INTERVALS
            intervals.write_text("\n".join(map(str, arrival_gaps_us(load))) + "\n", encoding="utf-8")
            arguments += ["--request-intervals", str(intervals)]
        if record:
            arguments += ["--profile-export-file", REQUESTS]
        return arguments

    def _check_version(self) -> None:
        command = [str(self._binary), "--version"]
        try:
            done = subprocess.run(
                command, env=self._environment, capture_output=True, text=True, timeout=30, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ProfileError(f"cannot run perf_analyzer ({self._binary}): {error}") from error
        output = done.stdout + done.stderr
        found = re.search(r"Version ([\d.]+)", output)
        if found is None or found[1] != VERSION:
            version = found[1] if found else _last_line(output)
            raise ProfileError(
                f"{self._binary} has another version ({version}); clip-profile reads the files of "
                f"perf_analyzer {VERSION}. Remove it, and clip-profile fetches the right one"
            )


def arrival_gaps_us(load: Load) -> list[int]:
    """Microseconds between requests: a Poisson process with its mean rate over the time measured.

    Given their number, the arrivals of a Poisson process are independent and uniform. They are drawn that
    way, so that the offered load is exact even over a short time.
    """
    seconds = load.seconds * 1.5
    count = max(4, round(load.rate * seconds))
    arrivals = np.sort(np.random.default_rng(load.seed).uniform(0, seconds * 1e6, count))
    # After the last gap perf_analyzer continues with the first one.
    gaps = np.diff(np.concatenate([arrivals, [arrivals[0] + seconds * 1e6]]))
    return [max(1, round(float(gap))) for gap in gaps]


def _run(
    command: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    deadline_s: float,
    on_start: Callable[[int], None],
) -> tuple[int, str]:
    """Exit status and output. The process ends with this one, and with any exception raised here."""
    process = subprocess.Popen(
        child_command(command),
        cwd=folder, env=environment, text=True, errors="replace",
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True,  # a terminal's Ctrl-C is for us to handle
    )  # fmt: skip
    try:
        on_start(process.pid)
        output, _ = process.communicate(timeout=deadline_s)
    except subprocess.TimeoutExpired:
        raise ProfileError(f"perf_analyzer did not finish within {deadline_s:.0f} s") from None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    return process.returncode, output


def _last_line(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return lines[-1] if lines else "no output"
