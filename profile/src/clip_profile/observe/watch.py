"""Looks at processes and GPU while a load runs: four times a second, and once at each end."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import TracebackType

import psutil

from clip_profile.observe import gpu
from clip_profile.records.measurement import Sample

PERIOD_S = 0.25
MOST_SAMPLES = 60
"""That are kept of one run; a longer one is thinned out."""


class Watch:
    """CPU and memory of the server's processes (by role; empty where it runs elsewhere) and of the client's.

    `cpu_s` and `samples` are there after the block.
    """

    def __init__(self, server: Mapping[str, Sequence[int]]) -> None:
        self._server = {role: [psutil.Process(pid) for pid in pids] for role, pids in server.items()}
        self._client: psutil.Process | None = None
        self._client_before_s = self._client_cpu_s = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, name="clip-profile-watch", daemon=True)
        self._samples: list[Sample] = []
        self._seen: dict[int, float] = {}
        self.cpu_s: dict[str, float] = {}
        """Seconds of CPU by role, over the whole block."""

    @property
    def client_cpu_s(self) -> float:
        return self._client_cpu_s - self._client_before_s

    def client(self, pid: int) -> None:
        """Names the process that makes the load, once it is there; its CPU counts from now on."""
        self._client = psutil.Process(pid)
        self._client_before_s = self._client_cpu_s = self._cpu_of_client()

    def samples(self, most: int = MOST_SAMPLES) -> tuple[Sample, ...]:
        step = -(-len(self._samples) // most) or 1
        return tuple(self._samples[::step])

    def __enter__(self) -> Watch:
        self._before = {role: self._cpu_s(processes) for role, processes in self._server.items()}
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._client_cpu_s = self._cpu_of_client()
        after = {role: self._cpu_s(processes) for role, processes in self._server.items()}
        self.cpu_s = {role: after[role] - self._before[role] for role in after}

    def _look(self) -> None:
        begin = last = time.monotonic()
        psutil.cpu_percent()
        server, client = sum(self._before.values()), self._client_before_s
        while not self._stop.wait(PERIOD_S):
            now = time.monotonic()
            processes = [process for group in self._server.values() for process in group]
            server_now, client_now = self._cpu_s(processes), self._cpu_of_client()
            device = gpu.sample()
            self._samples.append(
                Sample(
                    at_s=round(now - begin, 2),
                    server_cpu=round(max(0.0, server_now - server) / (now - last), 3) if processes else None,
                    client_cpu=round(max(0.0, client_now - client) / (now - last), 3),
                    machine_cpu=round(psutil.cpu_percent() / 100 * (psutil.cpu_count() or 1), 3),
                    server_rss_mb=round(_rss_mb(processes), 1) if processes else None,
                    client_rss_mb=round(_rss_mb([self._client]), 1) if self._client else None,
                    machine_memory=round(psutil.virtual_memory().percent / 100, 3),
                    gpus=device.uses if device else (),
                    gpu_memory_mb=device.memory_mb if device else None,
                )
            )
            server, client, last = server_now, client_now, now

    def _cpu_of_client(self) -> float:
        return self._cpu_s([self._client] if self._client else [])

    def _cpu_s(self, processes: Sequence[psutil.Process]) -> float:
        """User and system time so far; a process that is gone keeps what it was last seen with."""
        for process in processes:
            with suppress(psutil.Error):
                times = process.cpu_times()
                self._seen[process.pid] = times.user + times.system
        return sum(self._seen.get(process.pid, 0.0) for process in processes)


def _rss_mb(processes: Sequence[psutil.Process]) -> float:
    total = 0
    for process in processes:
        try:
            total += process.memory_info().rss
        except psutil.Error:
            continue
    return total / 2**20
