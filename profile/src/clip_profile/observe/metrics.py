"""What a server's Prometheus page says of its photos, its machine and its GPUs."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

from clip_profile.observe.gpu import busiest
from clip_profile.observe.periodic import Periodic
from clip_profile.observe.usage import GpuUsage, MachineUsage

Metrics = dict[str, list[float]]
"""The values of each metric, one for every set of labels."""

_PERIOD_S = 1.0
"""tritonserver itself looks every two seconds."""
_METRIC = re.compile(r"^(\w+)(?:\{[^}]*\})? (\S+)$", re.M)


def read_metrics(url: str | None) -> Metrics:
    """Empty where there is no page to read: no measurement depends on it."""
    if url is None:
        return {}
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return parse_metrics(answer.read().decode("utf-8", "replace"))
    except (OSError, ValueError):
        return {}


def parse_metrics(text: str) -> Metrics:
    found: Metrics = {}
    for name, value in _METRIC.findall(text):
        found.setdefault(name, []).append(float(value))
    return found


@dataclass(frozen=True)
class PhotoSeconds:
    """Seconds spent in decode and in preprocess since the server's start, and the photos in each."""

    decode_s: float = 0.0
    decoded: float = 0.0
    preprocess_s: float = 0.0
    preprocessed: float = 0.0

    @classmethod
    def of(cls, metrics: Metrics) -> PhotoSeconds:
        """Over all instances."""

        def total(name: str) -> float:
            return sum(metrics.get(f"clip_{name}", ()))

        return cls(
            total("decode_seconds_sum"), total("decode_seconds_count"),
            total("preprocess_seconds_sum"), total("preprocess_seconds_count"),
        )  # fmt: skip

    def mean_ms_since(self, before: PhotoSeconds) -> tuple[float, float] | None:
        """Decode and preprocess per photo; None if nothing was counted in between."""
        decoded, preprocessed = self.decoded - before.decoded, self.preprocessed - before.preprocessed
        if decoded <= 0 or preprocessed <= 0:
            return None
        return (
            1000 * (self.decode_s - before.decode_s) / decoded,
            1000 * (self.preprocess_s - before.preprocess_s) / preprocessed,
        )


class MetricsPage:
    """Reads the page once a second within the block, and at its end; nothing without a page."""

    def __init__(self, url: str | None) -> None:
        self._url = url
        self._periodic = Periodic(_PERIOD_S, self._look)
        self._seen: list[Metrics] = []

    def __enter__(self) -> MetricsPage:
        if self._url is not None:
            self._periodic.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._url is not None:
            self._periodic.__exit__(kind, error, trace)
            self._look()

    def machine(self) -> MachineUsage | None:
        """The server's machine, from nv_cpu_*."""
        cpu = [100 * value for value in self._each("nv_cpu_utilization", lambda one: sum(one) / len(one))]
        used, total = (self._each(f"nv_cpu_memory_{what}_bytes", sum) for what in ("used", "total"))
        return MachineUsage.of(cpu, [100 * a / b for a, b in zip(used, total, strict=False) if b])

    def gpu(self) -> GpuUsage | None:
        """The server's GPUs, from nv_gpu_*; None where it has none."""
        use = busiest([metrics.get("nv_gpu_utilization", []) for metrics in self._seen])
        used, total = (self._each(f"nv_gpu_memory_{what}_bytes", sum) for what in ("used", "total"))
        megabytes = [value / 2**20 for value in used]
        return GpuUsage.of("metrics", use, megabytes, max(total) / 2**20 if total else None)

    def _each(self, name: str, together: Callable[[list[float]], float]) -> list[float]:
        return [together(metrics[name]) for metrics in self._seen if name in metrics]

    def _look(self) -> None:
        self._seen.append(read_metrics(self._url))
