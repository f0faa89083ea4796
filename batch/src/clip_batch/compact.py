"""Merges the shards of finished plans into large files, without rows that newer ones replace.

New files are written to a folder of their own. One JSON file then switches all readers of this package to
them, and only after that they are moved into place and the old files are removed. Any command that finds a
switch which was not finished finishes it.
"""

from __future__ import annotations

import dataclasses
import json
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clip_batch import defaults
from clip_batch.dataset import Dataset, Snapshot, recover
from clip_batch.errors import BatchError
from clip_batch.keys import Keys, KeyTable, keys_of_table
from clip_batch.layout import COMPACTIONS, EMBEDDINGS, ERRORS, ShardName, compacted
from clip_batch.manifest import Plan, gone_tables
from clip_batch.models import read_model
from clip_batch.storage import Storage, reading, write_json
from clip_client.sinks.parquet import METADATA_KEY
from clip_client.sinks.schema import conformed

_ROW_BITS = 32
"""A row's number within its file, in the place of a row; the file's index is above."""


@dataclass
class Compaction:
    """What a compaction did. It covers the first plans `through`, which are done; `waiting` plans are not.

    `superseded` rows were older than another row of their object, `pruned` ones of objects that are gone,
    `other_model` ones of a model that was replaced.
    """

    through: int = 0
    waiting: int = 0
    files_before: int = 0
    files: int = 0
    rows: int = 0
    superseded: int = 0
    pruned: int = 0
    other_model: int = 0


def compact(
    storage: Storage,
    rows_per_file: int = defaults.COMPACT_ROWS,
    on_progress: Callable[[int, int], None] | None = None,
) -> Compaction:
    """Compacts the first plans that are done. Keeps 40 bytes per row in memory, and one batch.

    Calls `on_progress` with the number of rows that were copied or left out, and of all rows. Workers may be
    running. Raises StorageError, and BatchError if another compaction was faster.
    """
    recover(storage)
    storage.clean()
    dataset = Dataset.read(storage)
    work = _Work(dataset, _finished(dataset), on_progress)
    snapshot = Snapshot(
        dataset.snapshot.number + 1,
        work.through,
        f"{COMPACTIONS}/{dataset.snapshot.number + 1:06d}-{uuid.uuid4().hex[:8]}",
    )
    if work.is_done():
        return work.summary
    files = work.write(snapshot, rows_per_file)
    _commit(storage, dataclasses.replace(snapshot, files=tuple(files)))
    recover(storage)
    return dataclasses.replace(work.summary, files=len(files))


_SIMULTANEOUS = "another compaction of this output was faster. Run the command again if it is still needed"


def _commit(storage: Storage, snapshot: Snapshot) -> None:
    if not write_json(storage, f"{COMPACTIONS}/{snapshot.number:06d}.json", dataclasses.asdict(snapshot)):
        for file in list(storage.list(snapshot.staging)):
            storage.delete(file.name)
        raise BatchError(_SIMULTANEOUS)


def _finished(dataset: Dataset) -> list[Plan]:
    """The first plans, up to the first that is not done.

    A plan for a model that was replaced need not be done, unless its model is the last of these plans.
    """
    finished: list[Plan] = []
    for plan in dataset.plans:
        if dataset.undone([plan]):
            break
        finished.append(plan)
    while incomplete := [
        plan
        for plan in finished
        if plan.epoch == finished[-1].epoch and not all(map(dataset.is_stored, plan.all()))
    ]:
        finished = finished[: finished.index(incomplete[0])]
    return finished


class _Work:
    """Which rows of which files remain."""

    def __init__(
        self, dataset: Dataset, plans: Sequence[Plan], on_progress: Callable[[int, int], None] | None
    ) -> None:
        self._on_progress, self._passed = on_progress, 0
        self._storage, self._snapshot, self._plans = dataset.storage, dataset.snapshot, plans
        self.through = max((plan.number for plan in plans), default=0)
        self.summary = Compaction(self.through, len(dataset.plans) - len(plans))
        self._epoch = max((plan.epoch for plan in plans), default=1)
        infos = list(dataset.infos())
        errors = dataset.error_files(infos)
        found = [info.name for info in infos] + errors
        found = sorted((each for each in found if each.plan <= self.through), key=lambda each: each.plan)
        self.sources = found
        self.summary.files = self.summary.files_before = len(found)
        self._keep: list[Any] = []
        """For each file, which of its rows remain: bool [rows]."""
        self._select()

    def is_done(self) -> bool:
        """Whether the last compaction has all of it."""
        names = {name.name for name in self.sources}
        return names == set(self._snapshot.files) and all(keep.all() for keep in self._keep)

    def _select(self) -> None:
        epochs = {plan.number: plan.epoch for plan in self._plans}
        keys: list[Keys] = []
        places: list[Any] = []
        sizes: list[int] = []
        for index, name in enumerate(self.sources):
            found = self._keys(name)
            sizes.append(len(found))
            if epochs[name.plan] != self._epoch:
                self.summary.other_model += len(found)
                continue
            keys.append(found)
            places.append((np.int64(index) << _ROW_BITS) + np.arange(len(found)))
        newest = KeyTable.of(keys, places)
        self.summary.superseded = sum(sizes) - self.summary.other_model - len(newest)
        remaining = self._without_gone(newest)
        self.summary.pruned = len(newest) - len(remaining)
        self.summary.rows = len(remaining)
        self._keep = [np.zeros(size, bool) for size in sizes]
        files = remaining.values >> _ROW_BITS
        order = np.argsort(files, kind="stable")
        bounds = np.searchsorted(files[order], np.arange(len(sizes) + 1))
        for index, keep in enumerate(self._keep):
            chosen = remaining.values[order[bounds[index] : bounds[index + 1]]]
            keep[chosen & ((1 << _ROW_BITS) - 1)] = True

    def _without_gone(self, rows: KeyTable) -> KeyTable:
        """Without rows that an older plan wrote, of objects that a later one found gone and prunes."""
        plans = np.array([name.plan for name in self.sources] or [0])
        for plan in self._plans:
            if plan.prune and plan.gone:
                gone = np.concatenate([keys_of_table(table) for table in gone_tables(self._storage, plan)])
                is_gone = np.isin(rows.keys, gone) & (plans[rows.values >> _ROW_BITS] < plan.number)
                rows = KeyTable(rows.keys[~is_gone], rows.values[~is_gone])
        return rows

    def _keys(self, name: ShardName) -> Keys:
        with reading(self._storage, name.name) as file:
            return keys_of_table(pq.read_table(file, columns=["source", "name"], use_threads=False))

    def write(self, snapshot: Snapshot, rows_per_file: int) -> list[str]:
        """Writes the new files to the staging folder; returns all names that remain."""
        files: list[str] = []
        for folder in (EMBEDDINGS, ERRORS):
            inside = [
                (name, keep)
                for name, keep in zip(self.sources, self._keep, strict=True)
                if name.name.startswith(f"{folder}/")
            ]
            large = [name.name for name, keep in inside if keep.all() and len(keep) >= rows_per_file // 2]
            rewritten = [(name, keep) for name, keep in inside if name.name not in large]
            files += large
            self._pass(sum(len(keep) for name, keep in inside if name.name in large))
            files += self._merge(snapshot, folder, rewritten, rows_per_file)
        return files

    def _pass(self, rows: int) -> None:
        self._passed += rows
        if self._on_progress is not None:
            self._on_progress(self._passed, sum(map(len, self._keep)))

    def _merge(
        self, snapshot: Snapshot, folder: str, sources: Sequence[tuple[ShardName, Any]], rows_per_file: int
    ) -> Iterator[str]:
        """Writes the remaining rows to files of at most `rows_per_file` rows; yields their final names."""
        if not any(keep.any() for _, keep in sources):
            return
        model = read_model(self._storage, self._epoch) or {}
        with reading(self._storage, sources[0][0].name) as file:
            schema = pq.read_schema(file).with_metadata({METADATA_KEY: json.dumps(model).encode()})
        for part, tables in groupby(self._numbered(sources, schema, rows_per_file), key=lambda pair: pair[0]):
            name = compacted(folder, self.through, snapshot.number, part)

            def write(file: IO[bytes], tables: Any = tables) -> None:
                with pq.ParquetWriter(file, schema) as writer:
                    for table in _grouped(table for _, table in tables):
                        writer.write_table(table)

            self._storage.write_if_absent(f"{snapshot.staging}/{name}", write)
            yield name

    def _numbered(
        self, sources: Sequence[tuple[ShardName, Any]], schema: Any, rows_per_file: int
    ) -> Iterator[tuple[int, Any]]:
        """The remaining rows in small tables, each with the number of the file that it goes into."""
        written = 0
        for name, keep in sources:
            begin = 0
            with reading(self._storage, name.name) as file:
                for batch in pq.ParquetFile(file).iter_batches(defaults.ROW_GROUP_ROWS, use_threads=False):
                    mask = pa.array(keep[begin : begin + batch.num_rows])
                    begin += batch.num_rows
                    self._pass(batch.num_rows)
                    table = conformed(batch, schema).filter(mask)
                    while table.num_rows:
                        room = rows_per_file - written % rows_per_file
                        yield written // rows_per_file, table.slice(0, room)
                        written += min(room, table.num_rows)
                        table = table.slice(room)


def _grouped(tables: Iterator[Any]) -> Iterator[Any]:
    """Joins small tables to row groups of about ROW_GROUP_ROWS rows."""
    waiting: list[Any] = []
    rows = 0
    for table in tables:
        waiting.append(table)
        rows += table.num_rows
        if rows >= defaults.ROW_GROUP_ROWS:
            yield pa.concat_tables(waiting)
            waiting, rows = [], 0
    if waiting:
        yield pa.concat_tables(waiting)
