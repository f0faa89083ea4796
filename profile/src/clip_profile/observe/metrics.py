"""What a server's Prometheus page says of its photos, its machine and its GPUs."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Callable, Sequence

from clip_profile.observe.gpu import busiest
from clip_profile.observe.usage import GpuUsage, MachineUsage

Metrics = dict[str, list[float]]
"""The values of each metric, one for every set of labels."""

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


def photo_seconds(metrics: Metrics, stage: str) -> tuple[float, int]:
    """Seconds in `decode` or `preprocess` since the server's start, over all instances, and the photos."""
    seconds, photos = (sum(metrics.get(f"clip_{stage}_seconds_{what}", ())) for what in ("sum", "count"))
    return seconds, int(photos)


def machine_of(pages: Sequence[Metrics]) -> MachineUsage | None:
    """The server's machine, from nv_cpu_* of every look at the page."""
    cpu = [100 * value for value in _each(pages, "nv_cpu_utilization", lambda one: sum(one) / len(one))]
    used, total = (_each(pages, f"nv_cpu_memory_{what}_bytes", sum) for what in ("used", "total"))
    return MachineUsage.of(cpu, [100 * a / b for a, b in zip(used, total, strict=False) if b])


def gpu_of(pages: Sequence[Metrics]) -> GpuUsage | None:
    """The server's GPUs, from nv_gpu_*; None where it has none."""
    use = busiest([metrics.get("nv_gpu_utilization", []) for metrics in pages])
    used, total = (_each(pages, f"nv_gpu_memory_{what}_bytes", sum) for what in ("used", "total"))
    return GpuUsage.of("metrics", use, [one / 2**20 for one in used], max(total) / 2**20 if total else None)


def _each(pages: Sequence[Metrics], name: str, together: Callable[[list[float]], float]) -> list[float]:
    return [together(metrics[name]) for metrics in pages if name in metrics]
