"""Samples processes, machine and GPUs while a load runs: four times a second."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType

import psutil

from clip_profile.observe import gpu
from clip_profile.observe.periodic import Periodic
from clip_profile.observe.processes import ProcessGroup
from clip_profile.observe.usage import GpuUsage, MachineUsage, Usage, mean
from clip_profile.records.measurement import Sample

PERIOD_S = 0.25
MOST_SAMPLES = 60
"""Kept of one run; a longer one is thinned out."""


class Watch:
    """CPU and memory of the server's processes (by role; empty where it runs elsewhere) and of the client's.

    With `children`, all descendants of a process are counted with it. `cpu_s`, `client_cpu_s` and `samples`
    are complete after the block. Raises psutil.Error for a process that does not exist.
    """

    def __init__(self, server: Mapping[str, Sequence[int]], *, children: bool = False) -> None:
        self._server = {role: ProcessGroup(pids, children=children) for role, pids in server.items()}
        self._client, self._children = ProcessGroup([]), children
        self._client_before_s = 0.0
        self._periodic = Periodic(PERIOD_S, self._look)
        self.every_sample: list[Sample] = []
        self.cpu_s: dict[str, float] = {}
        """CPU seconds by role, over the whole block."""
        self.client_cpu_s = 0.0

    def client(self, pid: int) -> None:
        """Names the process that makes the load, once it is there; its CPU counts from now on."""
        client = ProcessGroup([pid], children=self._children)
        self._client_before_s = self._last_client_s = client.cpu_s()
        self._client = client

    def samples(self) -> tuple[Sample, ...]:
        """At most MOST_SAMPLES of them."""
        step = -(-len(self.every_sample) // MOST_SAMPLES) or 1
        return tuple(self.every_sample[::step])

    def __enter__(self) -> Watch:
        self._before = {role: group.cpu_s() for role, group in self._server.items()}
        self._begin = self._last = time.monotonic()
        self._last_server_s, self._last_client_s = sum(self._before.values()), self._client_before_s
        psutil.cpu_percent()
        self._periodic.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._periodic.__exit__(kind, error, trace)
        self.client_cpu_s = self._client.cpu_s() - self._client_before_s
        self.cpu_s = {role: group.cpu_s() - self._before[role] for role, group in self._server.items()}

    def _look(self) -> None:
        now = time.monotonic()
        server_s, client_s = sum(group.cpu_s() for group in self._server.values()), self._client.cpu_s()
        rss_mb = [group.rss_mb() for group in self._server.values()]
        device, seconds = gpu.sample(), now - self._last
        self.every_sample.append(
            Sample(
                at_s=round(now - self._begin, 2),
                server_cpu=round((server_s - self._last_server_s) / seconds, 3) if rss_mb else None,
                client_cpu=round(max(0.0, client_s - self._last_client_s) / seconds, 3),
                machine_cpu=round(psutil.cpu_percent() / 100 * (psutil.cpu_count() or 1), 3),
                server_rss_mb=round(sum(rss_mb), 1) if rss_mb else None,
                client_rss_mb=round(self._client.rss_mb(), 1) if self._client else None,
                machine_memory=round(psutil.virtual_memory().percent / 100, 3),
                gpus=device.uses if device else (),
                gpu_memory_mb=device.memory_mb if device else None,
            )
        )
        self._last, self._last_server_s, self._last_client_s = now, server_s, client_s

    # --- over the whole block ----------------------------------------------------------------

    def server_usage(self, photos: int, seconds: float) -> Usage | None:
        """None where the server's processes cannot be seen."""
        if not self.cpu_s:
            return None
        by_role = {role: 1000 * cpu_s / photos for role, cpu_s in self.cpu_s.items()} if photos else {}
        rss = self._known(lambda one: one.server_rss_mb)
        return _usage(sum(self.cpu_s.values()), rss, photos, seconds, by_role)

    def client_usage(self, photos: int, seconds: float) -> Usage:
        return _usage(self.client_cpu_s, self._known(lambda one: one.client_rss_mb), photos, seconds, {})

    def machine(self) -> MachineUsage | None:
        cores = psutil.cpu_count() or 1
        cpu = [min(100.0, 100 * sample.machine_cpu / cores) for sample in self.every_sample]
        return MachineUsage.of(cpu, [100 * value for value in self._known(lambda one: one.machine_memory)])

    def gpu(self) -> GpuUsage | None:
        """None where NVML found no GPU."""
        use = gpu.busiest([sample.gpus for sample in self.every_sample])
        return GpuUsage.of("nvml", use, self._known(lambda one: one.gpu_memory_mb), gpu.memory_total_mb())

    def _known(self, figure: Callable[[Sample], float | None]) -> list[float]:
        return [value for value in map(figure, self.every_sample) if value is not None]


def _usage(
    cpu_s: float, rss_mb: Sequence[float], photos: int, seconds: float, by_role: dict[str, float]
) -> Usage:
    return Usage(
        cpu_ms_per_photo=1000 * cpu_s / photos if photos else None,
        cpu_percent=100 * cpu_s / seconds / (psutil.cpu_count() or 1) if seconds > 0 else None,
        rss_mb_mean=mean(rss_mb),
        rss_mb_peak=max(rss_mb, default=None),
        cpu_ms_per_photo_by_role=by_role,
    )
