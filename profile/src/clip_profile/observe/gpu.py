"""This machine's NVIDIA GPUs through NVML; without any, everything is empty and nothing fails."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import zip_longest
from typing import Any, NamedTuple

import pynvml

Uses = Sequence[float | None]
"""Of each GPU at one moment (0..1), always in the same order; None for a GPU that does not report it."""


class Look(NamedTuple):
    """`memory_mb` is the sum over all GPUs; None if none reports it."""

    uses: tuple[float | None, ...]
    memory_mb: float | None


@lru_cache(maxsize=1)
def _handles() -> tuple[Any, ...]:
    try:
        pynvml.nvmlInit()
        return tuple(pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount()))
    except pynvml.NVMLError:
        return ()


def names() -> tuple[str, ...]:
    return tuple(str(pynvml.nvmlDeviceGetName(handle)) for handle in _handles())


def sample() -> Look | None:
    """None without a GPU. A divided GPU (MIG) reports its memory but not its use."""
    if not _handles():
        return None
    uses = [_ask(pynvml.nvmlDeviceGetUtilizationRates, handle) for handle in _handles()]
    return Look(tuple(None if use is None else use.gpu / 100 for use in uses), _memory_mb("used"))


def memory_total_mb() -> float | None:
    """Of all GPUs together; None without one."""
    return _memory_mb("total")


def busiest(looks: Sequence[Uses]) -> list[float]:
    """The use of the GPU that is used most, look by look: of many, that with a model's instance.

    Empty if no GPU reports its use. A mean over eight GPUs would hide that one of them is full.
    """
    each = [[use for use in one if use is not None] for one in zip_longest(*looks)]
    return max(each, key=lambda uses: sum(uses) / len(uses) if uses else -1.0, default=[])


def _memory_mb(what: str) -> float | None:
    infos = [_ask(pynvml.nvmlDeviceGetMemoryInfo, handle) for handle in _handles()]
    values = [float(getattr(info, what)) / 2**20 for info in infos if info is not None]
    return sum(values) if values else None


def _ask(question: Callable[[Any], Any], handle: Any) -> Any | None:
    try:
        return question(handle)
    except pynvml.NVMLError:
        return None
