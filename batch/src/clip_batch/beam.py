"""Partitions in an Apache Beam pipeline, for teams on Dataflow or Flink. Needs the extra `beam`.

with beam.Pipeline(options=options) as pipeline:
    pipeline | beam.Create(partitions) | EmbedPartitions(job)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
from apache_beam.utils.shared import Shared

from clip_batch.budget import Budget
from clip_batch.dataset import ShardCounts
from clip_batch.engines.base import Job, Worker
from clip_batch.layout import Partition


class EmbedPartitions(beam.PTransform):
    """A PTransform from Partition to ShardCounts, each once its partition is done.

    The runner decides where and how often partitions run. Threads of a process share one client. Bundles fail
    with what embed_partition() raises, and runners try them again a few times. `budget` of the job counts
    nothing but --max-failed in each process. Paths of the job must be valid on all workers.
    """

    def __init__(self, job: Job) -> None:
        super().__init__()
        self._job = dataclasses.replace(job, budget=Budget(job.budget.max_failed))

    def expand(self, partitions: Any) -> Any:
        # Create() or a read may be one bundle, which one worker would have to embed alone.
        return partitions | beam.Reshuffle() | beam.ParDo(_Embed(self._job))


class _Shared:
    """What Shared keeps: it wants an object that takes weak references."""

    def __init__(self, job: Job) -> None:
        self.worker = job.worker()
        _ = self.worker.client  # before several threads need it


class _Embed(beam.DoFn):
    def __init__(self, job: Job) -> None:
        self._job = job
        self._shared = Shared()

    def setup(self) -> None:
        self._process = self._shared.acquire(lambda: _Shared(self._job))

    def process(self, partition: Partition) -> Iterator[ShardCounts]:
        worker: Worker = self._process.worker
        yield worker.embed(partition)
