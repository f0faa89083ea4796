"""Watches everything while a load runs: the measuring engine of `sweep`, `stages` and the benchmarks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import psutil
from tritonclient.grpc import InferenceServerClient

from clip_profile.observe import gpu
from clip_profile.observe.metrics import Metrics, gpu_of, machine_of, photo_seconds, read_metrics
from clip_profile.observe.processes import ProcessGroup
from clip_profile.observe.server_stats import Statistics, read_statistics, statistics_since
from clip_profile.observe.usage import GpuUsage, Level, MachineUsage, Resources, Usage
from clip_profile.records.measurement import Sample
from clip_serving.errors import ServerError
from clip_serving.repository.stage import available_cores

PERIOD_S = 0.25
_PAGE_PERIOD_S = 1.0
"""tritonserver itself looks at its machine every two seconds."""
MOST_SAMPLES = 60
"""Kept of one run; a longer one is thinned out."""


@contextmanager
def every(period_s: float, look: Callable[[], None]) -> Iterator[None]:
    """Calls `look` every `period_s` seconds in a thread, within the block."""
    over = threading.Event()

    def run() -> None:
        while not over.wait(period_s):
            look()

    thread = threading.Thread(target=run, name="clip-profile-every", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


class Observer:
    """Within its block it samples processes, machine and GPUs, or the server's metrics page if its processes
    cannot be seen. At both ends it reads Triton's statistics. All figures are complete after the block.

    `pids` are the server's processes by role; with `children` their descendants count too. Call `client` once
    the process that generates the load has started. Raises psutil.Error for a process that does not exist.
    """

    def __init__(
        self,
        triton: InferenceServerClient | None,
        pids: Mapping[str, Sequence[int]],
        metrics_url: str | None = None,
        *,
        children: bool = False,
    ) -> None:
        self._triton, self._metrics_url, self._children = triton, metrics_url, children
        self._server = {role: ProcessGroup(pids, children=children) for role, pids in pids.items()}
        self._client = ProcessGroup([])
        self._client_before_s = self._last_client_s = 0.0
        self._pages: list[Metrics] = []
        self._open = ExitStack()
        self.every_sample: list[Sample] = []
        self.cpu_s: dict[str, float] = {}
        """CPU seconds of the server by role."""
        self.client_cpu_s = 0.0
        self.statistics: Statistics = {}
        """Empty if the server does not report them, or was restarted."""
        self.photo_ms: dict[str, float] = {}
        """Mean decode and preprocess of a photo; empty without the server's metrics."""

    def client(self, pid: int) -> None:
        """Sets the process that generates the load; its CPU counts from now on."""
        client = ProcessGroup([pid], children=self._children)
        self._client_before_s = self._last_client_s = client.cpu_s()
        self._client = client

    @property
    def samples(self) -> tuple[Sample, ...]:
        """At most MOST_SAMPLES of them."""
        step = -(-len(self.every_sample) // MOST_SAMPLES) or 1
        return tuple(self.every_sample[::step])

    def __enter__(self) -> Observer:
        self._statistics_before, self._page_before = self._read()
        self._before_s = {role: group.cpu_s() for role, group in self._server.items()}
        self._begin = self._last = time.monotonic()
        self._last_server_s = sum(self._before_s.values())
        psutil.cpu_percent()  # of the time since this call
        self._open.enter_context(every(PERIOD_S, self._sample))
        if self._metrics_url and not self._server:
            self._open.enter_context(every(_PAGE_PERIOD_S, self._look_at_page))
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()
        if not self.every_sample:  # shorter than a period
            self._sample()
        self.client_cpu_s = self._client.cpu_s() - self._client_before_s
        self.cpu_s = {role: group.cpu_s() - self._before_s[role] for role, group in self._server.items()}
        statistics, page = self._read()
        self._pages.append(page)
        self.statistics = statistics_since(statistics, self._statistics_before)
        for stage in ("decode", "preprocess"):
            before_s, before = photo_seconds(self._page_before, stage)
            seconds, photos = photo_seconds(page, stage)
            if photos > before:
                self.photo_ms[stage] = 1000 * (seconds - before_s) / (photos - before)

    def _read(self) -> tuple[Statistics, Metrics]:
        try:
            statistics = read_statistics(self._triton) if self._triton else {}
        except ServerError:
            statistics = {}
        return statistics, read_metrics(self._metrics_url)

    def _look_at_page(self) -> None:
        self._pages.append(read_metrics(self._metrics_url))

    def _sample(self) -> None:
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

    def resources(self, photos: int, seconds: float, *, local: bool) -> Resources:
        """Of the block, in which `photos` were embedded in `seconds`. With `local`, the GPUs of this machine
        are the server's."""
        cores, usable = psutil.cpu_count() or 1, available_cores()
        per_photo = {role: 1000 * cpu_s / photos for role, cpu_s in self.cpu_s.items()} if photos else {}

        def usage(cpu_s: float, rss_mb: Sequence[float], by_role: Mapping[str, float]) -> Usage:
            return Usage(
                1000 * cpu_s / photos if photos else None,
                min(100.0, 100 * cpu_s / seconds / usable) if seconds > 0 else None,
                Level.of(rss_mb), by_role,
            )  # fmt: skip

        server_rss_mb = self._known(lambda one: one.server_rss_mb)
        server = usage(sum(self.cpu_s.values()), server_rss_mb, per_photo) if self._server else None
        return Resources(
            client=usage(self.client_cpu_s, self._known(lambda one: one.client_rss_mb), {}),
            machine=MachineUsage(
                Level.of([min(cores, one.machine_cpu) for one in self.every_sample], 100 / cores),
                Level.of(self._known(lambda one: one.machine_memory), 100),
            ),
            server=server,
            server_machine=None if server else machine_of(self._pages),
            gpu=(self.gpu() if local else None) or gpu_of(self._pages),
        )

    def gpu(self) -> GpuUsage | None:
        """This machine's; None if NVML finds no GPU."""
        uses = gpu.busiest([sample.gpus for sample in self.every_sample])
        return GpuUsage.of("nvml", uses, self._known(lambda one: one.gpu_memory_mb), gpu.memory_total_mb())

    def _known(self, figure: Callable[[Sample], float | None]) -> list[float]:
        return [value for value in map(figure, self.every_sample) if value is not None]
