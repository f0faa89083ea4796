"""Copies a dataset into a database: writes what is new or changed, deletes what is gone, and verifies."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from clip_search import defaults
from clip_search.dataset import Dataset
from clip_search.errors import LoadError
from clip_search.loaders.base import Loader, Records, id_of, state_of


@dataclass(frozen=True)
class LoadSummary:
    """Counts of rows. `verified` rows were read back with their vectors, all others by their states."""

    written: int
    unchanged: int
    deleted: int
    verified: int


@dataclass(frozen=True)
class _Entry:
    number: int
    state: str


def load(
    dataset: Dataset, loader: Loader, on_progress: Callable[[int, int], None] | None = None
) -> LoadSummary:
    """Makes the loader's table equal to the dataset. Raises LoadError.

    A row is known by its source, name and generation. Rows that are stored already are skipped, so the same
    call continues an interrupted one. Deletes come last: until then only rows are added or replaced.
    `on_progress` gets the number of rows written and of all to write.
    """
    loader.open(dataset.model, dataset.dimension, _distinct(dataset))
    wanted = {
        id_of(row): _Entry(number, state_of(row, dataset.vectors[number]))
        for number, row in enumerate(dataset.rows())
    }
    stored = loader.stored()
    changed = [key for key, entry in wanted.items() if stored.get(key) != entry.state]
    for done, keys in _batches(changed, defaults.LOAD_ROWS):
        loader.upsert(_records(dataset, keys, wanted))
        if on_progress:
            on_progress(done, len(changed))
    gone = [key for key in stored if key not in wanted]
    for _, keys in _batches(gone, defaults.LOAD_ROWS):
        loader.delete(keys)
    loader.finish()
    verified = _verify(dataset, loader, wanted)
    return LoadSummary(len(changed), len(wanted) - len(changed), len(gone), verified)


def _distinct(dataset: Dataset) -> int:
    keys = dataset.table.select(["source", "name", "generation"])
    return len(keys.group_by(keys.column_names).aggregate([]))


def _batches(keys: Sequence[str], size: int) -> Iterator[tuple[int, Sequence[str]]]:
    for begin in range(0, len(keys), size):
        yield min(begin + size, len(keys)), keys[begin : begin + size]


def _records(dataset: Dataset, keys: Sequence[str], wanted: dict[str, _Entry]) -> Records:
    entries = [wanted[key] for key in keys]
    numbers = [entry.number for entry in entries]
    rows = dataset.rows_at(numbers)
    return Records(keys, [entry.state for entry in entries], rows, dataset.vectors[numbers])


def _verify(dataset: Dataset, loader: Loader, wanted: dict[str, _Entry]) -> int:
    """Compares all states and a sample of the vectors; returns the size of the sample. Raises LoadError."""
    stored = loader.stored()
    if stored != {key: entry.state for key, entry in wanted.items()}:
        different = sum(stored.get(key) != entry.state for key, entry in wanted.items())
        extra = sum(key not in wanted for key in stored)
        raise LoadError(
            f"{different} rows are missing or changed, and {extra} are left over, although all were written. "
            "Does another program write to the same table? Run the same command again"
        )
    every = max(1, len(wanted) // defaults.VERIFIED_ROWS)
    sample = list(wanted)[::every]
    vectors = loader.vectors(sample)
    for key in sample:
        expected = dataset.vectors[wanted[key].number]
        if key not in vectors or not np.allclose(vectors[key], expected, atol=defaults.VERIFY_TOLERANCE):
            raise LoadError(f"{dataset.row(wanted[key].number).name} was read back with another vector")
    return len(sample)
