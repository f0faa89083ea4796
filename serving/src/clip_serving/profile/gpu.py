"""This machine's NVIDIA GPUs through NVML; where there are none, everything is empty and nothing fails."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pynvml


@lru_cache(maxsize=1)
def _handles() -> tuple[Any, ...]:
    try:
        pynvml.nvmlInit()
        return tuple(pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount()))
    except pynvml.NVMLError:
        return ()


def names() -> tuple[str, ...]:
    return tuple(str(pynvml.nvmlDeviceGetName(handle)) for handle in _handles())


def sample() -> tuple[float, float] | None:
    """Mean use of all GPUs (0..1) and their memory in use in MB; None without a GPU."""
    handles = _handles()
    if not handles:
        return None
    try:
        use = [pynvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100 for handle in handles]
        memory = [pynvml.nvmlDeviceGetMemoryInfo(handle).used / 2**20 for handle in handles]
    except pynvml.NVMLError:
        return None
    return float(sum(use) / len(use)), float(sum(memory))


def memory_total_mb() -> float | None:
    """Of all GPUs together; None without one."""
    try:
        total = sum(pynvml.nvmlDeviceGetMemoryInfo(handle).total for handle in _handles())
    except pynvml.NVMLError:
        return None
    return float(total / 2**20) if total else None
