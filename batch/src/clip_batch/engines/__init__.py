"""Engines: how a job's partitions are scheduled."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from clip_batch.engines.base import Engine
from clip_batch.errors import BatchError


def open_engine(name: str, workers: int) -> Engine:
    """The engine of this name, with a number of workers. Raises BatchError for a missing package."""
    if name not in ENGINES:
        raise BatchError(f"no such engine: {name}. Choose one of {', '.join(ENGINES)}")
    return ENGINES[name](workers)


# Each function imports its engine when called, so that only its users need the engine's packages.
def _local(workers: int) -> Engine:
    from clip_batch.engines.local import LocalEngine

    return LocalEngine(workers)


def _ray(workers: int) -> Engine:
    from clip_batch.engines.ray import RayEngine

    return RayEngine(workers)


ENGINES: Mapping[str, Callable[[int], Engine]] = {"local": _local, "ray": _ray}
"""Engine by name. To add one, add its function (number of workers) here."""
