"""What a server's Prometheus page says of its photos, its machine and its GPUs."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Sequence

from clip_profile.observe.gpu import busiest
from clip_profile.observe.usage import GpuUsage, Level, MachineUsage

Metrics = dict[str, list[float]]
"""The values of each metric, one for every set of labels."""

_METRIC = re.compile(r"^(\w+)(?:\{[^}]*\})? (\S+)$", re.M)


def read_metrics(url: str | None) -> Metrics:
    """Empty if the page cannot be read: no measurement depends on it."""
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


def photo_seconds(metrics: Metrics, stage: str) -> tuple[float, int]:
    """Seconds in `decode` or `preprocess` since the server's start, over all instances, and the photos."""
    seconds, photos = (sum(metrics.get(f"clip_{stage}_seconds_{what}", ())) for what in ("sum", "count"))
    return seconds, int(photos)


def machine_of(pages: Sequence[Metrics]) -> MachineUsage | None:
    """The server's machine, from nv_cpu_* of every look at the page."""
    cpu = [sum(values) / len(values) for values in _each(pages, "nv_cpu_utilization")]
    used, total = (_sums(pages, f"nv_cpu_memory_{what}_bytes") for what in ("used", "total"))
    memory = [a / b for a, b in zip(used, total, strict=False) if b]
    return MachineUsage(Level.of(cpu, 100), Level.of(memory, 100)) if cpu else None


def gpu_of(pages: Sequence[Metrics]) -> GpuUsage | None:
    """The server's GPUs, from nv_gpu_*; None without any."""
    used, total = (_sums(pages, f"nv_gpu_memory_{what}_bytes", 2**20) for what in ("used", "total"))
    uses = busiest([metrics.get("nv_gpu_utilization", []) for metrics in pages])
    return GpuUsage.of("metrics", uses, used, max(total, default=None))


def _each(pages: Sequence[Metrics], name: str) -> list[list[float]]:
    return [metrics[name] for metrics in pages if name in metrics]


def _sums(pages: Sequence[Metrics], name: str, unit: int = 1) -> list[float]:
    return [sum(values) / unit for values in _each(pages, name)]
