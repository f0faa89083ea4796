"""Watches everything while a load runs: the measuring engine of `sweep`, `stages` and the benchmarks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType

from tritonclient.grpc import InferenceServerClient

from clip_profile.observe.metrics import MetricsPage, PhotoSeconds, read_metrics
from clip_profile.observe.server_stats import Statistics, read_statistics, statistics_since
from clip_profile.observe.usage import Resources
from clip_profile.observe.watch import Watch
from clip_serving.errors import ServerError


class Observer:
    """Within its block it watches processes, machine, GPUs and the server's metrics page; at both ends it
    reads Triton's statistics. All figures are complete after the block.

    `pids` are the server's processes by role, empty where they run elsewhere. Call `watch.client(pid)` once
    the process that makes the load is there. Raises psutil.Error for a process that does not exist.
    """

    def __init__(
        self, triton: InferenceServerClient, pids: Mapping[str, Sequence[int]], metrics_url: str | None = None
    ) -> None:
        self._triton, self._metrics_url = triton, metrics_url
        self.watch = Watch(pids)
        self._page = MetricsPage(None if pids else metrics_url)  # processes that are seen say more
        self._open = ExitStack()
        self.statistics: Statistics = {}
        """Of the block; empty where the server does not report them, or was restarted."""
        self.photo_ms: tuple[float, float] | None = None
        """Mean decode and preprocess of a photo, where the server's metrics tell."""

    def __enter__(self) -> Observer:
        self._statistics, self._photo_seconds = self._read()
        self._open.enter_context(self.watch)
        self._open.enter_context(self._page)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()
        statistics, photo_seconds = self._read()
        self.statistics = statistics_since(statistics, self._statistics)
        self.photo_ms = photo_seconds.mean_ms_since(self._photo_seconds)

    def resources(self, photos: int, seconds: float, *, local: bool) -> Resources:
        """Of the block, in which `photos` were embedded in `seconds`. With `local`, the GPUs of this machine
        are the server's."""
        server = self.watch.server_usage(photos, seconds)
        return Resources(
            client=self.watch.client_usage(photos, seconds),
            machine=self.watch.machine(),
            server=server,
            server_machine=None if server else self._page.machine(),
            gpu=(self.watch.gpu() if local else None) or self._page.gpu(),
        )

    def _read(self) -> tuple[Statistics, PhotoSeconds]:
        try:
            statistics = read_statistics(self._triton)
        except ServerError:
            statistics = {}
        return statistics, PhotoSeconds.of(read_metrics(self._metrics_url))
