"""Plans what to embed: lists the sources, leaves out what earlier plans have, and writes the manifest.

Streams: memory holds one partition and, for each object of earlier plans, 24 bytes (56 while they are
sorted). 16 bytes for each listed object find those that are gone; where objects can be listed twice, in lists
or by several sources, about 100 more find these.
"""

from __future__ import annotations

import dataclasses
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clip_batch import defaults
from clip_batch.dataset import Dataset
from clip_batch.errors import BatchError, StorageError
from clip_batch.keys import KEY, UNKNOWN, Keys, KeyTable, keys_of, keys_of_table, states_of
from clip_batch.layout import MODELS, is_output
from clip_batch.lists import Listing
from clip_batch.manifest import (
    GONE,
    Plan,
    PlannedObject,
    discard,
    gone_tables,
    objects_of,
    partition_tables,
    publish,
    write_manifest,
)
from clip_batch.models import claim_model, read_model
from clip_batch.partition import versions
from clip_batch.storage import Storage
from clip_client.sinks.base import model_difference

_BATCH = 10_000
"""Objects looked up at once."""


@dataclass(frozen=True)
class PlanOptions:
    """How objects are chosen and cut into partitions.

    `include` and `exclude` are patterns as those of clip_client.RunOptions. `prune` marks rows of objects
    that the sources no longer have, for compact() to remove. `model` is the server's, from describe_model();
    None if no server is asked. `replace_model` begins a new epoch.
    """

    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    partition_size: int = defaults.PARTITION_SIZE
    prune: bool = False
    model: Mapping[str, str] | None = None
    replace_model: bool = False
    on_listed: Callable[[int], None] | None = None


def make_plan(storage: Storage, listings: Sequence[Listing], options: PlanOptions = PlanOptions()) -> Plan:
    """Plans the objects that are new or have changed since earlier plans; returns the plan.

    Returns a plan without partitions, and writes nothing, if there is nothing to do. Raises BatchError,
    ModelMismatch, SourceError and StorageError; nothing is planned then.
    """
    if not 1 <= options.partition_size <= defaults.MAX_PARTITION_SIZE:
        raise BatchError(
            f"a partition has 1 to {defaults.MAX_PARTITION_SIZE:,} objects, not {options.partition_size:,}"
        )
    dataset = Dataset.read(storage)
    epoch = _epoch(dataset, options)
    chooser = _Chooser(_known(dataset, epoch), listings, options)
    plan = _new_plan(dataset, "plan", epoch, tuple(listing.text for listing in listings))
    try:
        plan = write_manifest(storage, plan, chooser.objects(), options.partition_size)
        plan = chooser.counted(plan)
        gone = _write_gone(dataset, plan, chooser)
        plan = dataclasses.replace(plan, gone=gone, prune=options.prune)
        if not plan.objects and not (gone and options.prune):
            discard(storage, plan)
            return plan
        if options.model is not None:
            claim_model(storage, epoch, options.model)
    except BaseException:
        with suppress(StorageError):
            discard(storage, plan)
        raise
    publish(storage, plan)
    return plan


def plan_objects(
    storage: Storage, kind: str, objects: Iterator[PlannedObject], sources: Sequence[str], partition_size: int
) -> Plan:
    """A plan of the given objects, whatever earlier plans have. Written only if there are any."""
    dataset = Dataset.read(storage)
    plan = _new_plan(dataset, kind, dataset.epoch, tuple(sources))
    plan = write_manifest(storage, plan, objects, partition_size)
    if plan.objects:
        publish(storage, plan)
    return plan


def _new_plan(dataset: Dataset, kind: str, epoch: int, sources: tuple[str, ...]) -> Plan:
    number = max((plan.number for plan in dataset.plans), default=0) + 1
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    version = versions()["clip-triton-batch"]
    return Plan(number, uuid.uuid4().hex[:8], kind, epoch, created, sources, version=version)


def _epoch(dataset: Dataset, options: PlanOptions) -> int:
    """The epoch of a new plan. Raises ModelMismatch if the server's model is not that of the output."""
    current = dataset.epoch
    stored = read_model(dataset.storage, current)
    if options.replace_model:
        if options.model is None:
            raise BatchError("--replace-model needs the --url of the server with the new model")
        if stored is None:
            return current
        return _next_epoch(dataset) if model_difference(stored, options.model) else current
    if stored is not None and options.model is not None:
        claim_model(dataset.storage, current, options.model)
    return current


def _next_epoch(dataset: Dataset) -> int:
    """One that no plan has begun, not even one that was killed before it was written."""
    claimed = [int(Path(file.name).stem) for file in dataset.storage.list(MODELS)]
    return max(dataset.epoch, *claimed) + 1


def _known(dataset: Dataset, epoch: int) -> KeyTable:
    """The state in which each object was last planned for this epoch, without objects marked for removal."""
    keys: list[Keys] = []
    states: list[Any] = []
    known = KeyTable.of(keys, states)
    for plan in dataset.plans:
        if plan.epoch != epoch:
            continue
        if plan.prune and plan.gone:
            known = KeyTable.of([known.keys, *keys], [known.values, *states])
            keys, states = [], []
            for table in gone_tables(dataset.storage, plan):
                known = known.without(keys_of_table(table))
        for _, table in partition_tables(dataset.storage, plan):
            keys.append(keys_of_table(table))
            states.append(states_of([each.info for each in objects_of(table)]))
    return KeyTable.of([known.keys, *keys], [known.values, *states])


@dataclass
class _Chooser:
    """The objects of all listings that are to be planned, and what was left out."""

    known: KeyTable
    listings: Sequence[Listing]
    options: PlanOptions
    listed: int = 0
    skipped: int = 0
    excluded: int = 0
    repeated: int = 0
    outputs: int = 0
    seen: list[Keys] = field(default_factory=list)

    def __post_init__(self) -> None:
        can_repeat = len(self.listings) > 1 or not all(each.is_complete for each in self.listings)
        self._unique = _Unique() if can_repeat else None
        self._finds_gone = len(self.known) > 0 and any(each.is_complete for each in self.listings)

    def counted(self, plan: Plan) -> Plan:
        return dataclasses.replace(
            plan,
            skipped=self.skipped,
            excluded=self.excluded,
            repeated=self.repeated,
            outputs=self.outputs,
        )

    def objects(self) -> Iterator[PlannedObject]:
        for listing in self.listings:
            stream = filter(self._is_photo, listing.objects())
            while batch := list(islice(stream, _BATCH)):
                self.listed += len(batch)
                yield from self._chosen(batch)
                if self.options.on_listed is not None:
                    self.options.on_listed(self.listed)

    def _is_photo(self, each: PlannedObject) -> bool:
        if is_output(each.info.name):
            self.outputs += 1
            return False
        return True

    def _chosen(self, batch: list[PlannedObject]) -> Iterator[PlannedObject]:
        keys = keys_of([each.source for each in batch], [each.info.name for each in batch])
        if self._finds_gone:
            self.seen.append(keys)
        selected = np.fromiter((self._is_selected(each.info.name) for each in batch), bool, len(batch))
        self.excluded += int((~selected).sum())
        if self._unique is not None:
            first = self._unique.add(keys)
            self.repeated += int((~first & selected).sum())
            selected &= first
        is_known, planned = self.known.find(keys)
        states = states_of([each.info for each in batch])
        is_done = is_known & ((planned == states) | (states == UNKNOWN))
        self.skipped += int((is_done & selected).sum())
        for index in np.flatnonzero(selected & ~is_done):
            yield batch[index]

    def _is_selected(self, name: str) -> bool:
        include, exclude = self.options.include, self.options.exclude
        return (not include or _matches(name, include)) and not _matches(name, exclude)


class _Unique:
    """Which keys have not been seen before."""

    def __init__(self) -> None:
        self._seen: set[bytes] = set()

    def add(self, keys: Keys) -> Any:
        """bool [N]."""
        first = np.zeros(len(keys), bool)
        for index, key in enumerate(keys.tolist()):
            if key not in self._seen:
                self._seen.add(key)
                first[index] = True
        return first


def _matches(name: str, patterns: Sequence[str]) -> bool:
    last = name.rstrip("/").rpartition("/")[2]
    return any(fnmatchcase(name if "/" in pattern else last, pattern) for pattern in patterns)


def _write_gone(dataset: Dataset, plan: Plan, chooser: _Chooser) -> int:
    """Writes the names of known objects that a complete listing lacks; returns their number."""
    complete = [listing for listing in chooser.listings if listing.is_complete]
    if not complete or not len(chooser.known):
        return 0
    listed = np.unique(np.concatenate(chooser.seen)) if chooser.seen else np.empty(0, KEY)
    if not len(listed) and plan.prune:
        raise BatchError("the sources are empty, and --prune would remove all of their rows")
    known = chooser.known
    missing = KeyTable(known.keys, known.values).without(listed)
    if not len(missing):
        return 0
    count = 0

    def write(file: IO[bytes]) -> None:
        nonlocal count
        with pq.ParquetWriter(file, GONE) as writer:
            for table in _missing_tables(dataset, missing, complete):
                writer.write_table(table)
                count += table.num_rows

    dataset.storage.write_if_absent(plan.gone_name, write)
    if not count:
        dataset.storage.delete(plan.gone_name)
    return count


def _missing_tables(dataset: Dataset, missing: KeyTable, listings: Sequence[Listing]) -> Iterator[Any]:
    """Each missing object that one of the listings would yield, once."""
    written: set[bytes] = set()
    for plan in dataset.plans:
        for _, table in partition_tables(dataset.storage, plan):
            keys = keys_of_table(table)
            rows = [
                index
                for index in np.flatnonzero(missing.find(keys)[0]).tolist()
                if keys[index] not in written and _covers(listings, table, index)
            ]
            if rows:
                written.update(keys[rows].tolist())
                yield pa.table(table.select(GONE.names).take(pa.array(rows)), schema=GONE)


def _covers(listings: Sequence[Listing], table: Any, row: int) -> bool:
    source, name = (table.column(column)[row].as_py() for column in ("source", "name"))
    return any(each.source == source and each.covers(name) for each in listings)
