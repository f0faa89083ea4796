"""Checks OUT against its plans: every object once, as a row with a right vector or as a typed error."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from clip_batch.dataset import Dataset, FileInfo, ShardCounts
from clip_batch.errors import DamagedFile
from clip_batch.keys import KEY, Keys, KeyTable, keys_of_table
from clip_batch.layout import Partition, ShardName
from clip_batch.manifest import Plan, gone_tables, partition_tables
from clip_batch.models import read_model
from clip_batch.storage import Storage, reading
from clip_client import defaults as client_defaults
from clip_client.sinks.base import model_difference
from clip_client.sinks.schema import VECTOR

_MOST_PROBLEMS = 20
_READ_ROWS = 10_000
_NO_KEYS = np.empty(0, KEY)


@dataclass
class Report:
    """What OUT has. `problems` are the first of `problem_count`; there are none in a right output.

    `superseded` rows have a newer one of the same object, in a later plan; `unused` files count for nothing,
    as after a kill; `other_model` rows are of a model that was replaced. compact() removes all of them.
    """

    plans: int = 0
    partitions: int = 0
    undone: int = 0
    objects: int = 0
    embedded: int = 0
    failed: int = 0
    superseded: int = 0
    unused: int = 0
    other_model: int = 0
    problem_count: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether everything is done and right."""
        return not self.problem_count and not self.undone

    def add(self, problem: str) -> None:
        self.problem_count += 1
        if len(self.problems) < _MOST_PROBLEMS:
            self.problems.append(problem)


def verify(storage: Storage, on_progress: Callable[[int, int], None] | None = None) -> Report:
    """Reads all rows, one batch at a time; keeps 24 bytes per object. Raises StorageError.

    Calls `on_progress` with the number of rows with vectors that were read, and of all of them.
    """
    while True:
        dataset = Dataset.read(storage)
        report = _Verifier(dataset, on_progress).run()
        if report.ok or not dataset.is_replaced():
            return report


class _Verifier:
    def __init__(self, dataset: Dataset, on_progress: Callable[[int, int], None] | None) -> None:
        self._dataset, self._storage = dataset, dataset.storage
        self._report = Report()
        self._on_progress, self._total = on_progress, 0
        self._rows: list[Keys] = []
        models = {epoch: read_model(self._storage, epoch) for epoch in {plan.epoch for plan in dataset.plans}}
        self._models = {plan.number: models[plan.epoch] for plan in dataset.plans}

    def run(self) -> Report:
        dataset, report = self._dataset, self._report
        report.plans = len(dataset.plans)
        report.partitions = sum(plan.partitions for plan in dataset.plans)
        damaged: list[DamagedFile] = []
        infos = list(dataset.infos(damaged.append))
        for error in damaged:
            report.add(str(error))
        self._total = sum(info.rows for info in infos)
        errors = dataset.error_files(infos)
        live = {info.name.name for info in infos} | {name.name for name in errors}
        report.unused = len(set(dataset.files) - live)
        for info in infos:
            self._check_model(info)
            report.other_model += info.rows if info.name.plan in dataset.replaced else 0
        by_partition = {info.name.partition: info for info in infos if info.counts is not None}
        for plan in dataset.plans:
            if plan.number > dataset.snapshot.through:
                self._check_plan(plan, by_partition)
        if dataset.snapshot.through:
            self._check_compacted(
                [info.name for info in infos if info.counts is None or self._is_old(info.name)],
                [name for name in errors if self._is_old(name)],
            )
        report.objects = len(np.unique(np.concatenate(self._rows))) if self._rows else 0
        report.superseded = sum(map(len, self._rows)) - report.objects
        return report

    def _is_old(self, name: ShardName) -> bool:
        return name.plan <= self._dataset.snapshot.through

    def _check_model(self, info: FileInfo) -> None:
        model = self._models.get(info.name.plan)
        if model is None:
            self._report.add(f"{info.name.name} belongs to no plan")
        elif difference := model_difference(model, info.model):
            self._report.add(f"{info.name.name} is of another model than its plan, which has {difference}")

    def _check_plan(self, plan: Plan, infos: dict[Partition | None, FileInfo]) -> None:
        for partition, table in partition_tables(self._storage, plan):
            info = infos.get(partition)
            if info is None or info.counts is None:
                self._report.undone += not self._dataset.is_done(partition)
                continue
            wanted = keys_of_table(table)
            self._check_counts(info.counts, len(wanted))
            names = [info.name.name, *filter(None, [info.counts.errors])]
            self._compare(partition.shard, wanted, np.concatenate([_NO_KEYS, *map(self._read, names)]))

    def _check_counts(self, counts: ShardCounts, objects: int) -> None:
        if counts.objects != objects or counts.embedded + sum(counts.failed.values()) != objects:
            self._report.add(
                f"{counts.partition.shard}: its counts do not add up to the objects of the plan: {objects}"
            )

    def _check_compacted(self, shards: Sequence[ShardName], errors: Sequence[ShardName]) -> None:
        found = [self._read(name.name) for name in (*shards, *errors)]
        through = self._dataset.snapshot.through
        wanted = _expected_keys(
            self._storage, [plan for plan in self._dataset.plans if plan.number <= through]
        )
        self._compare("the compacted files", wanted, np.concatenate([_NO_KEYS, *found]))

    def _compare(self, place: str, wanted: Keys, found: Keys) -> None:
        """Each wanted key once, and no other."""
        self._rows.append(found)
        unique, counts = np.unique(found, return_counts=True)
        missing, unknown = np.setdiff1d(wanted, unique), np.setdiff1d(unique, wanted)
        for count, what in (
            (len(missing), "missing objects of the plan"),
            (len(unknown), "rows of no object of the plan"),
            (int((counts - 1).sum()), "rows that repeat an object"),
        ):
            if count:
                self._report.add(f"{place}: {what}: {count}")

    def _read(self, name: str) -> Keys:
        """The keys of a file's rows, whose vectors or errors are checked."""
        keys = [_NO_KEYS]
        for batch in self._batches(name):
            keys.append(keys_of_table(batch))
            if VECTOR in batch.schema.names:
                self._report.embedded += batch.num_rows
                self._check_vectors(name, batch.column(VECTOR))
                if self._on_progress is not None:
                    self._on_progress(self._report.embedded, self._total)
            else:
                self._report.failed += batch.num_rows
                if without := batch.column("error_code").null_count:
                    self._report.add(f"{name}: rows without an error code: {without}")
        return np.concatenate(keys)

    def _batches(self, name: str) -> Iterator[Any]:
        try:
            with reading(self._storage, name) as file:
                reader = pq.ParquetFile(file)
                columns = ["source", "name"]
                columns.append(VECTOR if VECTOR in reader.schema_arrow.names else "error_code")
                yield from reader.iter_batches(_READ_ROWS, columns=columns, use_threads=False)
        except DamagedFile as error:
            self._report.add(str(error))

    def _check_vectors(self, name: str, column: Any) -> None:
        dimension = column.type.list_size
        vectors = column.flatten().to_numpy().reshape(-1, dimension)
        if len(vectors) != len(column):
            self._report.add(f"{name}: rows without a vector: {len(column) - len(vectors)}")
        norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
        wrong = int((~(np.abs(norms - 1) <= client_defaults.NORM_TOLERANCE)).sum())  # NaN is wrong, too
        if wrong:
            self._report.add(f"{name}: vectors of another length than 1: {wrong}")


def _expected_keys(storage: Storage, plans: Sequence[Plan]) -> Keys:
    """The objects that rows remain of once these plans, the first ones of OUT, are done and compacted."""
    epoch = max((plan.epoch for plan in plans), default=1)
    keys: list[Keys] = []
    for plan in plans:
        if plan.epoch != epoch:
            continue
        if plan.prune and plan.gone and keys:
            removed = np.concatenate([keys_of_table(table) for table in gone_tables(storage, plan)])
            merged = np.concatenate(keys)
            keys = [merged[~np.isin(merged, removed)]]
        keys += [keys_of_table(table) for _, table in partition_tables(storage, plan)]
    merged = np.concatenate([_NO_KEYS, *keys])
    return KeyTable.of([merged], [np.zeros(len(merged), np.int64)]).keys
