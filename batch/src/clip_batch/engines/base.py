"""What engines schedule: a Job, whose workers embed partitions in any process of any machine.

To add an engine, write a class with Engine's members and register it in ENGINES in
`clip_batch/engines/__init__.py`. An engine only decides where and when partitions run: each partition may run
twice, at the same time too, and is done once.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

from clip_batch.budget import Budget, Meter
from clip_batch.dataset import ShardCounts
from clip_batch.layout import Partition
from clip_batch.partition import embed_partition, open_planned
from clip_batch.storage import Storage, open_storage
from clip_client import ClipClient, ConnectionOptions, Source, SourceOptions
from clip_client import defaults as client_defaults
from clip_client.sinks.base import EmbeddedObject

OnItem = Callable[[EmbeddedObject], None]
OnProgress = Callable[[int, int], None]
"""Called with the number of objects that are done since the last call, and how many of them failed."""


@dataclass(frozen=True)
class ClientOptions:
    """The arguments of ClipClient, and how long to wait for a server that starts."""

    url: str | tuple[str, ...] = client_defaults.URL
    model: str = client_defaults.MODEL
    connection: ConnectionOptions = field(default_factory=ConnectionOptions)
    deadline_s: float = client_defaults.DEADLINE_S
    concurrency: int = client_defaults.CONCURRENCY
    decode: str | Sequence[str] = client_defaults.DECODE
    wait_s: float = client_defaults.WAIT_FOR_SERVER_S

    def open(self) -> ClipClient:
        """A client whose server is ready. Raises ServerUnavailable and ServerMismatch."""
        client = ClipClient(
            self.url,
            model=self.model,
            connection=self.connection,
            deadline_s=self.deadline_s,
            concurrency=self.concurrency,
            decode=self.decode,
        )
        try:
            client.wait(self.wait_s)
        except BaseException:
            client.close()
            raise
        return client


@dataclass(frozen=True)
class Job:
    """What every worker of a run needs. It can be pickled."""

    out: str
    client: ClientOptions = field(default_factory=ClientOptions)
    source: SourceOptions = field(default_factory=SourceOptions)
    budget: Budget = field(default_factory=Budget)

    def worker(self, meter: Meter | None = None) -> Worker:
        return Worker(self, meter)


class Worker:
    """Embeds partitions in one process, and keeps its connections in between. Use it from several threads.

    `meter` counts the failures of several workers together.
    """

    def __init__(self, job: Job, meter: Meter | None = None) -> None:
        self._job = job
        self._meter = meter or Meter(job.budget)
        self._sources: dict[str, Source] = {}
        self._has_client = False

    @cached_property
    def storage(self) -> Storage:
        return open_storage(self._job.out)

    @cached_property
    def client(self) -> ClipClient:
        client = self._job.client.open()
        self._has_client = True
        return client

    def embed(self, partition: Partition, on_item: OnItem | None = None) -> ShardCounts:
        """See embed_partition()."""
        return embed_partition(
            partition, lambda: self.client, self._source, self.storage, meter=self._meter, on_item=on_item
        )

    def close(self) -> None:
        """Ends requests in flight."""
        if self._has_client:
            self.client.close()

    def _source(self, uri: str) -> Source:
        if uri not in self._sources:
            self._sources[uri] = open_planned(uri, self._job.source)
        return self._sources[uri]


class Engine(Protocol):
    """Runs partitions."""

    def run(
        self, job: Job, partitions: Sequence[Partition], meter: Meter, on_progress: OnProgress | None = None
    ) -> Generator[ShardCounts, None, None]:
        """Yields the counts of each partition once it is done, in any order.

        Raises what embed_partition() raises; partitions in progress are then not done. Closing the generator
        ends the run. Calls `on_progress` now and then.
        """
