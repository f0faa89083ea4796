"""Plans and their manifests: which objects each partition has.

A manifest is a list of Parquet files with a row group per partition, so that a worker reads a footer and one
row group, and a plan of any size is written in the memory of one partition.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from clip_batch import defaults
from clip_batch.errors import BatchError
from clip_batch.layout import PLANS, Partition
from clip_batch.storage import Storage, damaged, read_json, reading, write_json
from clip_client import ObjectInfo

_INFO = ("name", "size", "generation", "crc32c", "content_encoding", "mtime_ns")
"""The columns of an ObjectInfo, in the order of its fields."""
SCHEMA = pa.schema(
    [
        ("source", pa.string()),
        ("uri", pa.string()),
        ("name", pa.string()),
        ("size", pa.int64()),
        ("generation", pa.int64()),
        ("crc32c", pa.string()),
        ("content_encoding", pa.string()),
        ("mtime_ns", pa.int64()),
    ]
)
FORMAT = 1
"""Of plans and the files they lead to. It grows when an older release would misread them."""
GONE = pa.schema([("source", pa.string()), ("name", pa.string())])
_REPEATED = ["source", "uri", "content_encoding"]
"""Columns of few values, which Parquet stores once per row group."""


@dataclass(frozen=True)
class PlannedObject:
    """An object to embed. `source` and the name identify its row; open_source(`uri`) loads it."""

    source: str
    uri: str
    info: ObjectInfo


@dataclass(frozen=True)
class Plan:
    """What a plan's JSON file says. Partitions are numbered from 0.

    `epoch` names the model of the plan's vectors: rows of an older epoch are no longer current. `kind` is
    "plan" or "retry", `size` is in bytes. `gone` objects of earlier plans are no longer in the sources;
    `prune` says that their rows are to be removed. `skipped` objects were planned before. `outputs` are
    files of other jobs in the sources.
    """

    number: int
    id: str
    kind: str
    epoch: int
    created: str
    sources: tuple[str, ...]
    partitions: int = 0
    objects: int = 0
    size: int = 0
    skipped: int = 0
    excluded: int = 0
    repeated: int = 0
    outputs: int = 0
    gone: int = 0
    prune: bool = False
    per_part: int = defaults.PARTITIONS_PER_PART
    version: str = ""
    format: int = FORMAT

    @property
    def name(self) -> str:
        return f"{PLANS}/{self.number:06d}.json"

    @property
    def prefix(self) -> str:
        """How the names of its other files begin."""
        return f"{PLANS}/{self.number:06d}-{self.id}-"

    @property
    def gone_name(self) -> str:
        return f"{self.prefix}gone.parquet"

    def part_name(self, part: int) -> str:
        return f"{self.prefix}{part:05d}.parquet"

    @property
    def parts(self) -> int:
        """The number of files of its manifest."""
        return -(-self.partitions // self.per_part)

    def partition(self, number: int) -> Partition:
        """Raises BatchError if there is no such partition."""
        if not 0 <= number < self.partitions:
            raise BatchError(
                f"plan {self.number} has no partition {number}: it has {self.partitions}, numbered from 0"
            )
        return Partition(self.number, number)

    def all(self) -> list[Partition]:
        return [Partition(self.number, number) for number in range(self.partitions)]

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Plan:
        """Ignores what a later release adds. Raises BatchError for a plan that this one would misread."""
        if values.get("format", FORMAT) > FORMAT:
            raise BatchError(
                f"plan {values.get('number')} was made by clip-batch {values.get('version')}, whose files "
                "this release cannot read. Install that release on all machines of the job"
            )
        known = {field.name for field in dataclasses.fields(cls)}
        given = {name: value for name, value in values.items() if name in known}
        return cls(**{**given, "sources": tuple(given["sources"])})


def has_plans(storage: Storage) -> bool:
    return any(file.name.endswith(".json") for file in storage.list(PLANS))


def read_plans(storage: Storage) -> list[Plan]:
    """All plans, in order."""
    names = [file.name for file in storage.list(PLANS) if file.name.endswith(".json")]
    return [read_json(storage, name, Plan.from_json) for name in names]


def read_plan(storage: Storage, number: int) -> Plan:
    """One plan. Raises BatchError if there is none of this number."""
    try:
        return read_json(storage, f"{PLANS}/{number:06d}.json", Plan.from_json)
    except FileNotFoundError:
        raise BatchError(
            f"{storage.uri} has no plan {number}. Make one with: clip-batch plan SOURCE --out {storage.uri}"
        ) from None


def read_partition(storage: Storage, partition: Partition) -> list[PlannedObject]:
    """A partition's objects, in the order of the plan. Raises BatchError if there is no such partition."""
    plan = read_plan(storage, partition.plan)
    part, group = divmod(plan.partition(partition.number).number, plan.per_part)
    with _manifest(storage, plan, part) as reader:
        return objects_of(reader.read_row_group(group, use_threads=False))


def objects_of(table: Any) -> list[PlannedObject]:
    columns = [table.column(name).to_pylist() for name in _INFO]
    infos = (ObjectInfo(*values) for values in zip(*columns, strict=True))
    sources = (table.column(name).to_pylist() for name in ("source", "uri"))
    return [PlannedObject(source, uri, info) for source, uri, info in zip(*sources, infos, strict=True)]


def table_of(objects: Sequence[PlannedObject]) -> Any:
    columns: dict[str, list[Any]] = {name: [getattr(each.info, name) for each in objects] for name in _INFO}
    columns["source"] = [each.source for each in objects]
    columns["uri"] = [each.uri for each in objects]
    return pa.table({field.name: columns[field.name] for field in SCHEMA}, schema=SCHEMA)


def partition_tables(storage: Storage, plan: Plan) -> Iterator[tuple[Partition, Any]]:
    """Each partition's rows, in order, in the memory of one partition."""
    number = 0
    for part in range(plan.parts):
        with _manifest(storage, plan, part) as reader:
            for group in range(reader.num_row_groups):
                yield Partition(plan.number, number), reader.read_row_group(group, use_threads=False)
                number += 1


def write_manifest(
    storage: Storage, plan: Plan, objects: Iterator[PlannedObject], partition_size: int
) -> Plan:
    """Writes the manifest's files, but not yet the plan; returns the plan with its counts."""
    partitions = total = size = 0
    groups = iter(lambda: list(islice(objects, partition_size)), [])
    for part, first in enumerate(groups):

        def write(file: IO[bytes], first: list[PlannedObject] = first) -> None:
            nonlocal partitions, total, size
            with pq.ParquetWriter(file, SCHEMA, use_dictionary=_REPEATED) as writer:
                for group in chain([first], islice(groups, plan.per_part - 1)):
                    writer.write_table(table_of(group), row_group_size=len(group))
                    partitions += 1
                    total += len(group)
                    size += sum(each.info.size for each in group)

        storage.write_if_absent(plan.part_name(part), write)
    return dataclasses.replace(plan, partitions=partitions, objects=total, size=size)


def publish(storage: Storage, plan: Plan) -> None:
    """Writes the plan's JSON file, which makes it count. Raises BatchError if another plan came first."""
    if not write_json(storage, plan.name, dataclasses.asdict(plan)):
        discard(storage, plan)
        raise BatchError(
            f"another process has written plan {plan.number} of {storage.uri} in the meantime. Run the "
            "command again: it leaves out what that plan has"
        )


def discard(storage: Storage, plan: Plan) -> None:
    """Removes the manifest of a plan that is not published."""
    for file in list(storage.list(PLANS)):
        if file.name.startswith(plan.prefix):
            storage.delete(file.name)


def gone_tables(storage: Storage, plan: Plan) -> Iterator[Any]:
    """The objects that the plan found gone, in batches."""
    if plan.gone:
        with reading(storage, plan.gone_name) as file:
            for batch in pq.ParquetFile(file).iter_batches(use_threads=False):
                yield pa.Table.from_batches([batch])


@contextmanager
def _manifest(storage: Storage, plan: Plan, part: int) -> Iterator[Any]:
    """A file of a manifest. It exists as long as its plan does."""
    name = plan.part_name(part)
    with reading(storage, name) as file:
        reader = pq.ParquetFile(file)
        wanted = min(plan.per_part, plan.partitions - part * plan.per_part)
        if missing := {*SCHEMA.names} - {*reader.schema_arrow.names}:
            raise damaged(storage, name, f"it lacks the columns {', '.join(sorted(missing))}")
        if reader.num_row_groups != wanted:
            raise damaged(storage, name, f"it has {reader.num_row_groups} partitions instead of {wanted}")
        yield reader
