"""CPU, memory and GPU over the time measured: processes of this machine, NVML, and the server's metrics."""

from __future__ import annotations

import os
import re
import sys
import threading
import urllib.request
from collections.abc import Callable, Sequence
from types import TracebackType

import psutil

from clip_profile.observe import gpu
from clip_profile.observe.watch import Watch
from clip_profile.records.measurement import Sample
from clip_profile.stages.result import GpuUsage, MachineUsage, Resources, Usage
from clip_profile.stages.server import Server

_PAGE_PERIOD_S = 1.0
"""tritonserver itself looks every two seconds."""
_METRIC = re.compile(r"^(nv_(?:gpu|cpu)_\w+)(?:\{[^}]*\})? (\S+)$", re.M)


class Meter:
    """Watches server and client within the block; `resources` is complete after it."""

    def __init__(self, server: Server) -> None:
        self._server = server
        # One that has just died must not keep the others' figures from being taken.
        self._watch = Watch(
            {role: list(filter(psutil.pid_exists, pids)) for role, pids in server.pids.items()}
        )
        self._watch.client(os.getpid())
        self._page = MetricsPage(server.metrics_url)

    def __enter__(self) -> Meter:
        self._watch.__enter__()
        self._page.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._page.__exit__(kind, error, trace)
        self._watch.__exit__(kind, error, trace)

    def resources(self, photos: int, seconds: float) -> Resources:
        """Of the block, in which `photos` were embedded in `seconds`."""
        samples, cores = self._watch.samples(sys.maxsize), psutil.cpu_count() or 1
        roles = self._watch.cpu_s

        def usage(cpu_s: float, rss: Sequence[float]) -> Usage:
            return Usage(
                cpu_ms_per_photo=1000 * cpu_s / photos if photos else None,
                cpu_percent=100 * cpu_s / seconds / cores if seconds > 0 else None,
                rss_mb_mean=_mean(rss),
                rss_mb_peak=max(rss, default=None),
            )

        client = usage(self._watch.client_cpu_s, _known(samples, lambda one: one.client_rss_mb))
        server = None
        if roles:
            server = usage(sum(roles.values()), _known(samples, lambda one: one.server_rss_mb))
            if photos:
                server.cpu_ms_per_photo_by_role.update(
                    {role: 1000 * seconds / photos for role, seconds in roles.items()}
                )
        return Resources(
            client=client,
            machine=_machine(samples, cores),
            server=server,
            server_machine=None if server else self._page.machine(),
            gpu=(nvml_usage(samples) if self._server.local else None) or self._page.gpu(),
        )


def _known(samples: Sequence[Sample], figure: Callable[[Sample], float | None]) -> list[float]:
    return [value for value in map(figure, samples) if value is not None]


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _machine(samples: Sequence[Sample], cores: int) -> MachineUsage | None:
    cpu = [min(100.0, 100 * sample.machine_cpu / cores) for sample in samples]
    memory = [100 * value for value in _known(samples, lambda one: one.machine_memory)]
    if not cpu:
        return None
    return MachineUsage(sum(cpu) / len(cpu), max(cpu), _mean(memory), max(memory, default=None))


def nvml_usage(samples: Sequence[Sample]) -> GpuUsage | None:
    """None where NVML found no GPU."""
    use = gpu.busiest([sample.gpus for sample in samples])
    memory = _known(samples, lambda one: one.gpu_memory_mb)
    return _gpu_usage("nvml", use, memory, gpu.memory_total_mb())


def _gpu_usage(
    source: str, use: Sequence[float], memory_mb: Sequence[float], total_mb: float | None
) -> GpuUsage | None:
    if not use and not memory_mb:
        return None
    percent = [100 * value for value in use]
    return GpuUsage(
        source, _mean(percent), max(percent, default=None), _mean(memory_mb), max(memory_mb, default=None),
        total_mb,
    )  # fmt: skip


class MetricsPage:
    """Triton's figures of its machine and GPUs within the block, once a second; nothing without a page."""

    def __init__(self, url: str | None) -> None:
        self._url = url
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, name="clip-stages-metrics", daemon=True)
        self._seen: dict[str, list[list[float]]] = {}
        """By metric, of every look: a value for each GPU."""

    def __enter__(self) -> MetricsPage:
        if self._url is not None:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._url is not None:
            self._thread.join()

    def machine(self) -> MachineUsage | None:
        """The server's machine, from nv_cpu_*."""
        cpu = [100 * value for value in self._each("nv_cpu_utilization", _mean_of)]
        used, total = (self._each(f"nv_cpu_memory_{what}_bytes", sum) for what in ("used", "total"))
        memory = [100 * a / b for a, b in zip(used, total, strict=False) if b]
        if not cpu:
            return None
        return MachineUsage(sum(cpu) / len(cpu), max(cpu), _mean(memory), max(memory, default=None))

    def gpu(self) -> GpuUsage | None:
        """The server's GPUs, from nv_gpu_*; None where it has none."""
        use = gpu.busiest(self._seen.get("nv_gpu_utilization", []))
        used, total = (
            [value / 2**20 for value in self._each(f"nv_gpu_memory_{what}_bytes", sum)]
            for what in ("used", "total")
        )
        return _gpu_usage("metrics", use, used, max(total, default=None))

    def _each(self, name: str, together: Callable[[list[float]], float]) -> list[float]:
        return [together(values) for values in self._seen.get(name, [])]

    def _look(self) -> None:
        assert self._url is not None
        while True:
            try:
                with urllib.request.urlopen(self._url, timeout=5) as answer:
                    text = answer.read().decode("utf-8", "replace")
            except (OSError, ValueError):  # a page that is missing takes nothing from the measurement
                text = ""
            look: dict[str, list[float]] = {}
            for name, value in _METRIC.findall(text):
                look.setdefault(name, []).append(float(value))
            for name, values in look.items():
                self._seen.setdefault(name, []).append(values)
            if self._stop.wait(_PAGE_PERIOD_S):
                return


def _mean_of(values: list[float]) -> float:
    return sum(values) / len(values)
