"""The engine in this process: a few partitions at a time, on threads that share one client."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait

from clip_batch.budget import Meter
from clip_batch.dataset import ShardCounts
from clip_batch.engines.base import Job, OnProgress
from clip_batch.layout import Partition
from clip_client.sinks.base import EmbeddedObject
from clip_client.threads import DaemonExecutor


class LocalEngine:
    """Embeds `workers` partitions at a time. More than one keeps requests in flight while another ends."""

    def __init__(self, workers: int) -> None:
        self._workers = workers

    def run(
        self, job: Job, partitions: Sequence[Partition], meter: Meter, on_progress: OnProgress | None = None
    ) -> Generator[ShardCounts, None, None]:
        if not partitions:
            return

        def count(item: EmbeddedObject) -> None:
            if on_progress is not None:
                on_progress(1, int(item.error is not None))

        worker = job.worker(meter)
        pool = DaemonExecutor(self._workers, "clip-batch")
        waiting = iter(partitions)
        running: set[Future[ShardCounts]] = set()
        try:
            _ = worker.client  # one wait for the server, before the threads need it
            while True:
                for partition in waiting:
                    running.add(pool.submit(worker.embed, partition, count))
                    if len(running) >= self._workers:
                        break
                if not running:
                    return
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
        finally:
            worker.close()  # ends the requests of partitions in progress
            pool.shutdown(wait=False, cancel_futures=True)
