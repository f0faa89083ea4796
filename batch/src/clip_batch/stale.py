"""Which rows were made by another model, or with other settings, than a server has now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from clip_batch.dataset import Dataset
from clip_batch.status import rate_of
from clip_batch.storage import Storage
from clip_client.sinks.base import model_difference


@dataclass
class Stale:
    """`photos` in `shards` have vectors that the server would compute differently; `reasons` counts them.

    `current` photos have the server's. `rate` is of the job's last partitions, in objects per second.
    """

    shards: list[str] = field(default_factory=list)
    photos: int = 0
    current: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    rate: float | None = None

    def hours(self, rate: float | None = None) -> float | None:
        """To embed them again, at a rate in objects per second; None if none is known."""
        rate = rate or self.rate
        return self.photos / rate / 3600 if rate else None


def find_stale(storage: Storage, model: Mapping[str, str]) -> Stale:
    """Compares the shards' metadata with `model`, from describe_model(). Reads footers alone."""
    found, counts = Stale(), []
    for info in Dataset.reading(storage, lambda dataset: list(dataset.infos())):
        if info.counts is not None:
            counts.append(info.counts)
        difference = model_difference(info.model, model)
        if difference is None:
            found.current += info.rows
            continue
        found.shards.append(info.name.name)
        found.photos += info.rows
        found.reasons[difference] = found.reasons.get(difference, 0) + info.rows
    found.rate = rate_of(counts)
    return found
