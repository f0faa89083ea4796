"""Plans failed objects again."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow.parquet as pq

from clip_batch import defaults
from clip_batch.dataset import Dataset
from clip_batch.keys import KEY, keys_of_table
from clip_batch.manifest import Plan, PlannedObject, gone_tables, objects_of, partition_tables
from clip_batch.plan import plan_objects
from clip_batch.poison import PoisonList
from clip_batch.storage import Storage, reading
from clip_client import ObjectInfo
from clip_client.errors import PERMANENT_CODES


@dataclass
class _Failed:
    """A failed row: its plan and code, and the object as it was last planned, in which plan."""

    plan: int
    code: str
    info: ObjectInfo
    planned_in: int = 0
    planned: PlannedObject | None = None
    is_gone: bool = False


def retry(
    storage: Storage, codes: Collection[str] | None = None, partition_size: int = defaults.PARTITION_SIZE
) -> Plan:
    """A plan of the objects whose newest row has an error with one of `codes`; by default, one that may pass.

    Objects that a later plan has already are left out, and so are those that are gone. Photos that crashed
    servers are sent again if `codes` has request_failed. Keeps the failed rows in memory.
    """
    dataset, failed = Dataset.reading(storage, lambda dataset: (dataset, _failed(dataset, codes)))
    for plan in dataset.plans:
        if plan.epoch == dataset.epoch and failed:
            _find(storage, plan, failed)
    chosen = [each for each in failed.values() if each.planned_in <= each.plan and not each.is_gone]
    if codes is not None and "request_failed" in codes:
        poison = PoisonList(storage)
        for each in chosen:
            if each.code == "request_failed":
                poison.forgive(each.info)
    objects = [each.planned for each in chosen if each.planned is not None]
    name = "failed: " + (", ".join(sorted(codes)) if codes is not None else "errors that may pass")
    return plan_objects(storage, "retry", _in_order(objects), [name], partition_size)


def _in_order(objects: list[PlannedObject]) -> Iterator[PlannedObject]:
    yield from sorted(objects, key=lambda each: (each.source, each.info.name))


def _failed(dataset: Dataset, codes: Collection[str] | None) -> dict[bytes, _Failed]:
    """Each object's newest failed row, by key."""
    failed: dict[bytes, _Failed] = {}
    columns = ["source", "name", "size", "crc32c", "error_code"]
    for name in dataset.error_files(list(dataset.infos())):
        with reading(dataset.storage, name.name) as file:
            table = pq.read_table(file, columns=columns, use_threads=False)
        rows = table.select(["name", "size", "crc32c", "error_code"]).to_pylist()
        for key, row in zip(keys_of_table(table).tolist(), rows, strict=True):
            code = row.pop("error_code")
            failed.pop(key, None)
            if code in codes if codes is not None else code not in PERMANENT_CODES:
                failed[key] = _Failed(name.plan, code, ObjectInfo(**row))
    return failed


def _find(storage: Storage, plan: Plan, failed: dict[bytes, _Failed]) -> None:
    """Adds what the plan says about the failed objects."""
    wanted = np.sort(np.array(list(failed), KEY))
    if plan.prune:
        for table in gone_tables(storage, plan):
            for key in keys_of_table(table).tolist():
                if key in failed:
                    failed[key].is_gone = True
    for _, table in partition_tables(storage, plan):
        keys = keys_of_table(table)
        rows = np.flatnonzero(np.isin(keys, wanted)).tolist()
        if rows:
            objects = objects_of(table.take(rows))
            for key, planned in zip(keys[rows].tolist(), objects, strict=True):
                each = failed[key]
                each.planned_in, each.planned, each.is_gone = plan.number, planned, False
