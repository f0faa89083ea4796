"""The engine on a Ray cluster: actors that keep their connections, one process each.

Ray schedules and repeats. What is done is in OUT alone, so a lost actor, node or answer costs a repetition of
the partitions that it had.
"""

from __future__ import annotations

import dataclasses
import os
import signal
from collections import Counter, deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from clip_batch import defaults
from clip_batch.budget import Budget, Meter
from clip_batch.dataset import ShardCounts
from clip_batch.engines.base import Job, OnProgress, Worker
from clip_batch.errors import BatchError
from clip_batch.layout import Partition
from clip_batch.storage import open_storage
from clip_client.memory import keep_freed_memory


class RayEngine:
    """Runs up to `workers` actors of one CPU each, on the cluster of RAY_ADDRESS or else on this machine.

    An actor embeds two partitions at a time. It starts working when Ray has a place for it, and ends when
    no partition is left for it: a cluster that scales by demand grows and shrinks with that. Raises
    BatchError if Ray is missing or its cluster cannot be reached.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._ray = _import_ray()

    def run(
        self, job: Job, partitions: Sequence[Partition], meter: Meter, on_progress: OnProgress | None = None
    ) -> Generator[ShardCounts, None, None]:
        """See Engine. Calls `on_progress` once for each partition."""
        if not partitions:
            return
        with _cluster(self._ray, self._workers), closing(_Pool(self._ray, _portable(job))) as pool:
            for counts in pool.run(partitions, self._workers):
                if counts.is_new:
                    meter.add(counts.objects, counts.failed)
                if on_progress is not None:
                    on_progress(counts.objects, sum(counts.failed.values()))
                yield counts


def _import_ray() -> ModuleType:
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise BatchError(
            f"--engine ray needs Ray ({error}). In a clone of clip-triton: pip install './batch[ray]'"
        ) from error
    module: ModuleType = ray
    return module


@contextmanager
def _cluster(ray: ModuleType, workers: int) -> Iterator[None]:
    """Connects to Ray, unless the caller has."""
    if ray.is_initialized():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    address = os.environ.get("RAY_ADDRESS")
    try:
        if address:
            ray.init(address, logging_level="warning")
        else:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            ray.init(
                "local",
                num_cpus=max(workers, len(os.sched_getaffinity(0))),
                object_store_memory=defaults.RAY_STORE_BYTES,
                include_dashboard=False,
                log_to_driver=False,
                logging_level="warning",
                _node_ip_address="127.0.0.1",
            )
    except (ConnectionError, RuntimeError, ValueError) as error:
        where = f"connect to the Ray cluster at {address}" if address else "start Ray on this machine"
        raise BatchError(f"cannot {where}: {error}") from error
    finally:
        for number, handler in handlers.items():  # Ray's handler of SIGTERM would end the process
            signal.signal(number, handler)
    try:
        yield
    finally:
        ray.shutdown()


def _portable(job: Job) -> Job:
    """The job for processes in other folders, each of which sees a part of the failures."""
    storage = open_storage(job.out)
    out = storage.uri if storage.local_path is None else str(storage.local_path.absolute())
    return dataclasses.replace(job, out=out, budget=Budget(job.budget.max_failed))


class _Actor:
    """A process of the pool."""

    def __init__(self, job: Job) -> None:
        keep_freed_memory()
        self._worker: Worker = job.worker()

    def open(self) -> None:
        """Waits for the server."""
        _ = self._worker.client

    def embed(self, partition: Partition) -> ShardCounts:
        return self._worker.embed(partition)


@dataclass
class _Call:
    """A call in progress: of embed(), or of open() without a partition. `losses` counts earlier tries."""

    actor: Any
    partition: Partition | None
    losses: int


class _Pool:
    """Actors, and what they are doing."""

    def __init__(self, ray: ModuleType, job: Job) -> None:
        self._ray = ray
        self._job = job
        self._new = ray.remote(_Actor).options(num_cpus=1, max_concurrency=defaults.WORKERS)
        self._calls: dict[Any, _Call] = {}
        self._waiting: deque[tuple[Partition, int]] = deque()
        self._busy: Counter[Any] = Counter()
        """Calls of each actor that is alive."""

    def run(self, partitions: Sequence[Partition], workers: int) -> Iterator[ShardCounts]:
        """Yields the counts of each partition once it is done."""
        self._waiting.extend((partition, 0) for partition in partitions)
        for _ in range(min(workers, len(partitions))):
            self._start(0)
        while self._waiting or any(call.partition is not None for call in self._calls.values()):
            done, _ = self._ray.wait(list(self._calls))
            call = self._calls.pop(done[0])
            if call.actor in self._busy:
                self._busy[call.actor] -= 1
            try:
                counts = self._ray.get(done[0])
            except self._ray.exceptions.RayActorError as error:
                self._lost(call, error)
                continue
            except self._ray.exceptions.RayTaskError as error:
                raise getattr(error, "cause", None) or error from None
            if call.partition is not None:
                yield counts
            self._feed(call.actor)

    def close(self) -> None:
        """Ends all actors, with the partitions in progress."""
        for actor in list(self._busy):
            self._end(actor)

    def _start(self, losses: int) -> None:
        actor = self._new.remote(self._job)
        self._submit(actor, actor.open.remote(), None, losses)

    def _submit(self, actor: Any, call: Any, partition: Partition | None, losses: int) -> None:
        self._calls[call] = _Call(actor, partition, losses)
        self._busy[actor] += 1

    def _feed(self, actor: Any) -> None:
        """Gives the actor as much as it takes; ends it if there is nothing for it."""
        while self._waiting and self._busy[actor] < defaults.WORKERS:
            partition, losses = self._waiting.popleft()
            self._submit(actor, actor.embed.remote(partition), partition, losses)
        if not self._busy[actor]:
            self._end(actor)

    def _end(self, actor: Any) -> None:
        del self._busy[actor]
        self._ray.kill(actor)

    def _lost(self, call: _Call, error: Exception) -> None:
        """Another actor repeats what this one was doing when its process or its node ended."""
        losses = call.losses + 1
        if losses > defaults.RAY_LOSSES:
            what = "a worker that starts" if call.partition is None else f"partition {call.partition.number}"
            raise BatchError(f"Ray has lost {what} {losses} times. The last time: {error}") from error
        if call.partition is not None:
            self._waiting.appendleft((call.partition, losses))
        if call.actor in self._busy:
            self._end(call.actor)
            self._start(losses if call.partition is None else 0)
