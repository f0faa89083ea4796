"""embed_partition(): the one function that does a job's work, whatever engine calls it."""

from __future__ import annotations

import dataclasses
import socket
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import cache
from importlib import metadata
from itertools import groupby
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from clip_batch import defaults
from clip_batch.budget import Budget, Meter
from clip_batch.dataset import BATCH_KEY, ShardCounts, read_info, read_snapshot
from clip_batch.errors import MissingFile
from clip_batch.layout import Partition, ShardName
from clip_batch.manifest import PlannedObject, read_partition, read_plan
from clip_batch.models import claim_model
from clip_batch.poison import PoisonList
from clip_batch.storage import Storage
from clip_client import ClipClient, ObjectInfo, Source, SourceOptions, open_source
from clip_client.errors import ServerCrash
from clip_client.sinks.base import EmbeddedObject, describe_model
from clip_client.sinks.schema import VECTOR, schema_of, table_of, without_vectors
from clip_client.sources.file_names import path_of

OpenSource = Callable[[str], Source]
"""Opens the source of a PlannedObject's uri."""


def open_planned(uri: str, options: SourceOptions | None = None) -> Source:
    """The source of a PlannedObject's uri. Raises SourceError."""
    return open_source(uri if "://" in uri else path_of(uri), options)


def embed_partition(
    partition: Partition,
    open_client: Callable[[], ClipClient],
    open_source: OpenSource,
    storage: Storage,
    *,
    meter: Meter | None = None,
    on_item: Callable[[EmbeddedObject], None] | None = None,
) -> ShardCounts:
    """Embeds the objects of a partition and writes its shard: each object is a row or a typed error, once.

    Idempotent: if the shard exists, returns its counts. Any number of workers may embed the same partition;
    one of their shards is kept. Keeps the partition's vectors in memory. Raises ServerUnavailable,
    ServerMismatch, SourceError, StorageError, ModelMismatch and BudgetExceeded; the partition is then not
    done.
    """
    if (done := _existing(storage, partition)) is not None:
        return done
    plan = read_plan(storage, partition.plan)
    objects = sorted(read_partition(storage, partition), key=_place)
    client = open_client()
    model = describe_model(client.info)
    claim_model(storage, plan.epoch, model)
    rows = _Rows(schema_of(model, client.info.dimension))
    poison = PoisonList(storage)
    meter = meter or Meter(Budget())
    begin = time.monotonic()
    for (source, uri), group in groupby(objects, key=_place):
        chosen = _Chosen(open_source(uri), list(group), poison)
        with closing(client.embed_records(chosen)) as records:
            for item in records:
                if isinstance(item.error, ServerCrash) and item.info.crc32c:
                    poison.add(source, item.info, item.error)
                rows.add(source, item)
                meter.add(1, {item.error.code: 1} if item.error else {})
                if on_item is not None:
                    on_item(item)
    return _commit(storage, partition, rows, time.monotonic() - begin)


def _place(each: PlannedObject) -> tuple[str, str]:
    return each.source, each.uri


def _existing(storage: Storage, partition: Partition) -> ShardCounts | None:
    """The counts of the partition's shard; None if it is to be embedded."""
    try:
        info = read_info(storage, ShardName(partition.shard, partition.plan, partition))
        return info.counts
    except MissingFile:
        compacted = partition.plan <= read_snapshot(storage).through
        return ShardCounts(partition) if compacted else None


def _commit(storage: Storage, partition: Partition, rows: _Rows, seconds: float) -> ShardCounts:
    """Writes the failed rows, then the shard, which names their file and makes the partition done."""
    failed = rows.failures()
    errors = partition.errors(uuid.uuid4().hex[:12]) if rows.failed else None
    counts = ShardCounts(
        partition, rows.objects, rows.objects - sum(rows.failed.values()), dict(rows.failed),
        rows.megabytes, seconds, time.time(), errors, is_new=True,
    )  # fmt: skip
    described = {BATCH_KEY: counts.to_json(worker=socket.gethostname(), versions=versions())}
    if errors is not None:
        storage.write_if_absent(errors, _writing(failed, described))
    if storage.write_if_absent(partition.shard, _writing(rows.embedded(), described)):
        return counts
    if errors is not None:
        storage.delete(errors)
    return _existing(storage, partition) or counts


def _writing(table: Any, described: dict[bytes, bytes]) -> Callable[[IO[bytes]], None]:
    table = table.replace_schema_metadata({**table.schema.metadata, **described})

    def write(file: IO[bytes]) -> None:
        pq.write_table(table, file, row_group_size=defaults.ROW_GROUP_ROWS)

    return write


@cache
def versions() -> dict[str, str]:
    """Of the packages that wrote a shard."""
    names = ("clip-triton-batch", "clip-triton-client", "pyarrow")
    return {name: metadata.version(name) for name in names}


class _Rows:
    """The rows of a partition: columns, but for the last few."""

    def __init__(self, schema: Any) -> None:
        self._schema = schema
        self._waiting: list[tuple[str, EmbeddedObject]] = []
        self._embedded: list[Any] = [schema.empty_table()]
        self._failures: list[Any] = [without_vectors(schema).empty_table()]
        self.objects = 0
        self.megabytes = 0.0
        self.failed: Counter[str] = Counter()

    def add(self, source: str, item: EmbeddedObject) -> None:
        self._waiting.append((source, item))
        self.objects += 1
        self.megabytes += item.info.size / 1e6
        if item.error is not None:
            self.failed[item.error.code] += 1
        if len(self._waiting) >= defaults.TABLE_ROWS:
            self._convert()

    def embedded(self) -> Any:
        """An Arrow table of the rows that have a vector."""
        self._convert()
        return pa.concat_tables(self._embedded)

    def failures(self) -> Any:
        """An Arrow table of the others, without that column."""
        self._convert()
        return pa.concat_tables(self._failures)

    def _convert(self) -> None:
        for source, group in groupby(self._waiting, key=lambda pair: pair[0]):
            items = [item for _, item in group]
            good = [item for item in items if item.error is None]
            bad = [item for item in items if item.error is not None]
            if good:
                self._embedded.append(table_of(good, source, self._schema))
            if bad:
                self._failures.append(table_of(bad, source, self._schema).drop_columns([VECTOR]))
        self._waiting = []


class _Chosen:
    """A source that lists a partition's objects, and does not load those that crash servers."""

    def __init__(self, source: Source, objects: Sequence[PlannedObject], poison: PoisonList) -> None:
        self._source, self._objects, self._poison = source, objects, poison
        self.uri = source.uri

    def check(self) -> None:
        self._source.check()

    def covers(self, name: str) -> bool:
        return self._source.covers(name)

    def list(self) -> Iterator[ObjectInfo]:
        for each in self._objects:
            yield each.info

    def load(self, item: ObjectInfo) -> bytes:
        if item.crc32c is not None:
            self._poison.check(item)
            return self._source.load(item)
        data = self._source.load(item)
        self._poison.check(dataclasses.replace(item, size=len(data)), data)
        return data
