"""Runs NVIDIA's perf_analyzer at one load, and never leaves it behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clip_client import ConnectionOptions
from clip_profile.errors import ProfileError, WindowTooShort
from clip_profile.load.connection import perf_analyzer_arguments, redacted
from clip_profile.load.perf_files import REPORT, REQUESTS, Report, Requests, read_report, read_requests
from clip_profile.records.measurement import Arrival
from clip_serving import defaults
from clip_serving.errors import ServerError
from clip_serving.server import perf_analyzer, runtime
from clip_serving.server.child_process import child_command

_WINDOWS = 3
"""perf_analyzer reports its last three, and calls them stable when told that any difference is."""
_INTERVALS = "intervals.txt"
_MOST_RECORDED = 256 * 1024 * 1024
"""Bytes of photos that perf_analyzer may write down beside the requests (see perf_files)."""
VERSION = perf_analyzer.WHEEL.rpartition("=")[2]


@dataclass(frozen=True)
class Load:
    """`concurrency` requests always in flight, or arrivals at `rate` requests a second.

    `seconds` is the time measured in all. `seed` fixes the arrivals: two settings of one round get the
    same. perf_analyzer's own Poisson arrivals have one seed for ever, whose beginning is a third too slow.
    """

    arrival: Arrival
    seconds: float
    request_batch: int
    concurrency: int = 0
    rate: float = 0.0
    seed: int = 0

    def window_ms(self) -> int:
        return max(1, round(self.seconds / _WINDOWS * 1000))


@dataclass(frozen=True)
class Outcome:
    report: Report
    requests: Requests | None
    command: tuple[str, ...]


_TOO_SHORT = ("larger time window", "failed to find the requested model version")


class PerfAnalyzer:
    """The binary and its environment. Raises ProfileError where it is missing or of another version."""

    def __init__(
        self,
        photos: Path,
        mean_bytes: int,
        metrics_url: str | None = None,
        connection: ConnectionOptions | None = None,
    ) -> None:
        """`photos` is its --input-data file, whose photos have `mean_bytes` each."""
        try:
            self._binary = perf_analyzer.prepare()
            self._environment = runtime.prepare().environment()
        except ServerError as error:
            raise ProfileError(f"perf_analyzer is missing: {error}") from error
        self._photos = photos
        self._mean_bytes = mean_bytes
        self._metrics_url = metrics_url
        self._connection = connection or ConnectionOptions()
        self._check_version()

    def run(self, url: str, load: Load, folder: Path, on_start: Callable[[int], None]) -> Outcome:
        """Presses the server at `url`; the files go into `folder`. Raises ProfileError, WindowTooShort."""
        recorded = load.rate * load.seconds * load.request_batch * self._mean_bytes
        record = load.arrival == "poisson" and recorded <= _MOST_RECORDED
        command = [str(self._binary), *self._arguments(url, load, folder, record=record)]
        deadline_s = 60 + 6 * load.seconds
        status, output = _run(command, folder, self._environment, deadline_s, on_start)
        if status != 0 and any(text in output for text in _TOO_SHORT):
            raise WindowTooShort(f"perf_analyzer: {_last_words(output)}")
        if status != 0:
            raise ProfileError(f"perf_analyzer: {_last_words(output)} (exit status {status})")
        requests = read_requests(folder / REQUESTS) if record else None
        places = {str(self._photos): "photos.json", str(folder / _INTERVALS): _INTERVALS}
        shown = [places.get(part, part) for part in command[1:]]
        shown = ["clip-perf-analyzer", *redacted(shown, self._connection.headers.items())]
        return Outcome(read_report(folder), requests, tuple(shown))

    def _arguments(self, url: str, load: Load, folder: Path, *, record: bool) -> list[str]:
        arguments = [
            *("-m", defaults.ENSEMBLE, "-i", "grpc", "-u", url, "--async"),
            *perf_analyzer_arguments(self._connection),
            *("--input-data", str(self._photos), "-b", str(load.request_batch)),
            *("--measurement-mode", "time_windows", "-p", str(load.window_ms())),
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
        if self._metrics_url:
            arguments += ["--collect-metrics", "--metrics-url", self._metrics_url]
        return arguments

    def _check_version(self) -> None:
        try:
            done = subprocess.run(
                [str(self._binary), "--version"],
                env=self._environment, capture_output=True, text=True, timeout=30, check=False,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ProfileError(f"perf_analyzer ({self._binary}) cannot be run: {error}") from error
        found = re.search(r"Version ([\d.]+)", done.stdout + done.stderr)
        if found is None or found[1] != VERSION:
            said = found[1] if found else _last_words(done.stdout + done.stderr)
            raise ProfileError(
                f"{self._binary} is perf_analyzer {said}, and its files are read as {VERSION} writes them: "
                "remove it, and the right one is fetched again"
            )


def arrival_gaps_us(load: Load) -> list[int]:
    """Microseconds between requests: a Poisson process that has its mean rate over the time measured.

    Given their number, the arrivals of a Poisson process are independent and uniform: so they are drawn,
    and the offered load is what was asked for, without the luck of a short stretch.
    """
    seconds = load.seconds * 1.5
    count = max(4, round(load.rate * seconds))
    arrivals = np.sort(np.random.default_rng(load.seed).uniform(0, seconds * 1e6, count))
    # perf_analyzer begins again with the first gap after the last one.
    gaps = np.diff(np.concatenate([arrivals, [arrivals[0] + seconds * 1e6]]))
    return [max(1, round(float(gap))) for gap in gaps]


def _run(
    command: list[str],
    folder: Path,
    environment: dict[str, str],
    deadline_s: float,
    on_start: Callable[[int], None],
) -> tuple[int, str]:
    """Exit status and output. The process ends with this one, and with whatever is raised here."""
    process = subprocess.Popen(
        child_command(command),
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        # A terminal's Ctrl-C is ours to handle.
        start_new_session=True,
    )
    try:
        on_start(process.pid)
        output, _ = process.communicate(timeout=deadline_s)
    except subprocess.TimeoutExpired:
        raise ProfileError(f"perf_analyzer did not end within {deadline_s:.0f} s") from None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    return process.returncode, output


def _last_words(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"
