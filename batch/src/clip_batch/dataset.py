"""The rows in OUT: which files count, and what each says about itself.

A compaction's JSON file lists all files of rows that count for the plans up to `through`. Of later plans,
the shards of partitions count. Everything else was replaced, or was written too late, and is
removed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, TypeVar

import pyarrow.parquet as pq

from clip_batch import defaults
from clip_batch.errors import DamagedFile, MissingFile
from clip_batch.layout import COMPACTIONS, EMBEDDINGS, ERRORS, Partition, ShardName
from clip_batch.manifest import Plan, read_plans
from clip_batch.storage import Storage, damaged, read_json, reading
from clip_client.sinks.parquet import METADATA_KEY

_Result = TypeVar("_Result")
BATCH_KEY = b"clip_triton_batch"
"""The key of ShardCounts in the metadata of a shard."""


@dataclass(frozen=True)
class ShardCounts:
    """What became of a partition. `failed` counts by error code; `errors` is the file of failed rows, if any.

    `finished` is in seconds since 1970. `is_new` says whether this worker wrote the shard: it was there
    before otherwise, or another worker came first.
    """

    partition: Partition
    objects: int = 0
    embedded: int = 0
    failed: Mapping[str, int] = field(default_factory=dict)
    megabytes: float = 0.0
    seconds: float = 0.0
    finished: float = 0.0
    errors: str | None = None
    is_new: bool = False

    def to_json(self, **more: Any) -> bytes:
        values = {name: value for name, value in vars(self).items() if name not in ("partition", "is_new")}
        number = {"plan": self.partition.plan, "partition": self.partition.number}
        return json.dumps({**number, **values, **more}).encode()

    @classmethod
    def from_json(cls, data: bytes) -> ShardCounts:
        """Ignores what a later release adds."""
        values = json.loads(data)
        partition = Partition(values.pop("plan"), values.pop("partition"))
        known = cls.__dataclass_fields__
        return cls(partition, **{name: value for name, value in values.items() if name in known})


@dataclass(frozen=True)
class FileInfo:
    """A file's footer. `counts` is None for a file of a compaction."""

    name: ShardName
    rows: int
    model: Mapping[str, str]
    counts: ShardCounts | None


@dataclass(frozen=True)
class Snapshot:
    """The last compaction: `files` has all rows of the plans up to `through`."""

    number: int = 0
    through: int = 0
    staging: str = ""
    files: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Snapshot:
        """Ignores what a later release adds."""
        return cls(values["number"], values["through"], values["staging"], tuple(values["files"]))


@dataclass(frozen=True)
class Dataset:
    """What is in OUT at one moment."""

    storage: Storage
    plans: Sequence[Plan]
    snapshot: Snapshot
    files: Mapping[str, int]
    """Sizes in bytes of the files in embeddings/ and errors/ by name."""

    @classmethod
    def read(cls, storage: Storage) -> Dataset:
        """Finishes a compaction whose files are not in place yet."""
        snapshot = read_snapshot(storage)
        while True:
            files = _files(storage)
            if not all(name in files for name in snapshot.files):
                recover(storage)
                files = _files(storage)
            before, snapshot = snapshot, read_snapshot(storage)
            if snapshot.number == before.number:
                return cls(storage, read_plans(storage), snapshot, files)

    @classmethod
    def reading(cls, storage: Storage, action: Callable[[Dataset], _Result]) -> _Result:
        """What `action` makes of the dataset; again if a compaction has replaced files in the meantime."""
        while True:
            dataset = cls.read(storage)
            try:
                return action(dataset)
            except MissingFile:
                if not dataset.is_replaced():
                    raise

    def is_replaced(self) -> bool:
        """Whether a compaction has ended since the dataset was read."""
        return read_snapshot(self.storage).number != self.snapshot.number

    @cached_property
    def epoch(self) -> int:
        """The model that new vectors are of; 1 before the first plan."""
        return max((plan.epoch for plan in self.plans), default=1)

    @cached_property
    def replaced(self) -> frozenset[int]:
        """The plans of a model that was replaced: nothing of theirs is current, or is done any more."""
        return frozenset(plan.number for plan in self.plans if plan.epoch != self.epoch)

    def is_done(self, partition: Partition) -> bool:
        """Whether there is nothing to do for the partition."""
        return partition.plan in self.replaced or self.is_stored(partition)

    def is_stored(self, partition: Partition) -> bool:
        """Whether the partition's rows are there, in its shard or in a compaction's files."""
        return partition.plan <= self.snapshot.through or partition.shard in self.files

    def undone(self, plans: Sequence[Plan] | None = None) -> list[Partition]:
        """The partitions to embed, in order."""
        chosen = self.plans if plans is None else plans
        return [partition for plan in chosen for partition in plan.all() if not self.is_done(partition)]

    def shards(self) -> list[ShardName]:
        """The files of rows with vectors that count, oldest plan first."""
        return self._live(EMBEDDINGS)

    def _live(self, folder: str) -> list[ShardName]:
        kept = set(self.snapshot.files)
        names = (name for name in kept.union(self.files) if name.startswith(f"{folder}/"))
        parsed = filter(None, map(ShardName.parse, names))
        return sorted(
            (each for each in parsed if each.plan > self.snapshot.through or each.name in kept),
            key=lambda each: (each.plan, each.name),
        )

    def infos(self, on_damage: Callable[[DamagedFile], None] | None = None) -> Iterator[FileInfo]:
        """The footers of shards(), in their order. A bucket answers many requests at once.

        Raises DamagedFile, or gives it to `on_damage` and goes on with the next file.
        """
        with ThreadPoolExecutor(defaults.FOOTERS_AT_ONCE) as pool:
            for found in pool.map(partial(_info_or_damage, self.storage), self.shards()):
                if isinstance(found, FileInfo):
                    yield found
                elif on_damage is None:
                    raise found
                else:
                    on_damage(found)

    def error_files(self, infos: Sequence[FileInfo]) -> list[ShardName]:
        """The files of failed rows that count, given the footers of the shards."""
        through = self.snapshot.through
        named = {info.counts.errors for info in infos if info.counts and info.name.plan > through}
        kept = [*self.snapshot.files, *filter(None, named)]
        found = (ShardName.parse(name) for name in sorted(kept) if name.startswith(f"{ERRORS}/"))
        return sorted(filter(None, found), key=lambda each: (each.plan, each.name))


def _files(storage: Storage) -> dict[str, int]:
    return {file.name: file.size for folder in (EMBEDDINGS, ERRORS) for file in storage.list(folder)}


def recover(storage: Storage) -> None:
    """Finishes the last compaction: moves its files into place and removes what they replace."""
    snapshot = read_snapshot(storage)
    if not snapshot.number:
        return
    kept = set(snapshot.files)
    present = set(_files(storage))
    if missing := kept - present:
        for name in missing:
            storage.move(f"{snapshot.staging}/{name}", name)
        present = set(_files(storage))
        if kept - present:
            return  # what they replace may be all that is left of their rows
    for name in present - kept:
        parsed = ShardName.parse(name)
        if parsed is not None and parsed.plan <= snapshot.through:
            storage.delete(name)
    for file in list(storage.list(COMPACTIONS)):
        number, is_staged, _ = file.name.removeprefix(f"{COMPACTIONS}/").partition("-")
        if is_staged and int(number) <= snapshot.number and not file.name.startswith(snapshot.staging):
            storage.delete(file.name)


def read_snapshot(storage: Storage) -> Snapshot:
    names = [file.name for file in storage.list(COMPACTIONS) if file.name.endswith(".json")]
    if not names:
        return Snapshot()
    return read_json(storage, names[-1], Snapshot.from_json)


def read_info(storage: Storage, shard: ShardName) -> FileInfo:
    """A file's footer. Raises MissingFile and DamagedFile."""
    with reading(storage, shard.name) as file:
        footer = pq.read_metadata(file)
        found = footer.metadata or {}
        counts = found.get(BATCH_KEY)
        if METADATA_KEY not in found or (counts is None and shard.partition is not None):
            raise damaged(storage, shard.name, "clip-batch did not write it")
        model = json.loads(found[METADATA_KEY])
        return FileInfo(shard, footer.num_rows, model, ShardCounts.from_json(counts) if counts else None)


def _info_or_damage(storage: Storage, shard: ShardName) -> FileInfo | DamagedFile:
    try:
        return read_info(storage, shard)
    except DamagedFile as error:
        return error
