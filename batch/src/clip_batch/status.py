"""How far a job is: partitions, failures, rate, time left, and what it costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import pyarrow.parquet as pq

from clip_batch.dataset import Dataset, ShardCounts
from clip_batch.storage import Storage, reading

_WINDOW_S = 600.0
"""The rate is of the partitions that were finished in the last ten minutes of work."""


@dataclass
class Status:
    """`rate` is in objects per second, by all workers together; None before the first partition is done.

    `failed` counts failed rows by error code, also of objects that a later plan embeds, until compact().
    `gone` objects are no longer in the sources, according to the last plan, until they are pruned and
    compacted. `other_model` rows with vectors are of a model that was replaced, until compact().
    """

    plans: int = 0
    partitions: int = 0
    done: int = 0
    objects: int = 0
    finished_objects: int = 0
    failed: dict[str, int] = field(default_factory=dict)
    rate: float | None = None
    gone: int = 0
    other_model: int = 0

    @property
    def seconds_left(self) -> float | None:
        """At the last rate; None if that is not known."""
        left = self.objects - self.finished_objects
        return 0.0 if not left else left / self.rate if self.rate else None

    def cost(self, price_per_hour: float) -> dict[str, float | None]:
        """At a price for all machines together: of what is left, and of a million objects."""
        seconds = self.seconds_left
        return {
            "left": None if seconds is None else price_per_hour * seconds / 3600,
            "per_million": price_per_hour * 1e6 / self.rate / 3600 if self.rate else None,
        }


def read_status(storage: Storage) -> Status:
    """Reads the footers of the shards. Raises StorageError."""
    return Dataset.reading(storage, _status)


def _status(dataset: Dataset) -> Status:
    infos = list(dataset.infos())
    counts = [info.counts for info in infos if info.counts is not None]
    plans = dataset.plans
    status = Status(len(plans), sum(plan.partitions for plan in plans))
    status.objects = sum(plan.objects for plan in plans)
    status.done = status.partitions - len(dataset.undone())
    through = dataset.snapshot.through
    old = {plan.number for plan in plans if plan.number <= through} | dataset.replaced
    status.finished_objects = sum(plan.objects for plan in plans if plan.number in old)
    status.finished_objects += sum(each.objects for each in counts if each.partition.plan not in old)
    status.other_model = sum(info.rows for info in infos if info.name.plan in dataset.replaced)
    failed: Counter[str] = Counter()
    for each in counts:
        failed.update(each.failed if each.partition.plan > through else {})
    for name in dataset.error_files(infos):
        if name.plan <= through:
            failed.update(_codes(dataset.storage, name.name))
    status.failed = dict(failed.most_common())
    status.rate = rate_of(counts)
    status.gone = sum(plan.gone for plan in plans[-1:] if not plan.prune or plan.number > through)
    return status


def _codes(storage: Storage, name: str) -> list[str]:
    with reading(storage, name) as file:
        codes: list[str] = pq.read_table(file, columns=["error_code"]).column(0).to_pylist()
    return codes


def rate_of(counts: Sequence[ShardCounts]) -> float | None:
    """Objects per second over the last partitions that were finished; None if there are none."""
    last = max((each.finished for each in counts), default=0.0)
    recent = [each for each in counts if each.finished > last - _WINDOW_S]
    begin = min((each.finished - each.seconds for each in recent), default=last)
    return sum(each.objects for each in recent) / (last - begin) if last > begin else None
