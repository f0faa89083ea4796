"""Runs that die anywhere, even at a rename: OUT is whole whenever it is there, and no row lost or doubled."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow.parquet as pq
from hypothesis import example, given, settings
from hypothesis import strategies as st

from clip_client import EmbeddedObject, ItemError, ObjectInfo, PhotoResult, defaults
from clip_client.sinks.parquet import ParquetSink

_OBJECTS = 9


class Killed(BaseException):
    """Passes through all that would tidy up after an error."""


@dataclass(frozen=True)
class Run:
    """One run: which objects are new in the bucket since, which fail, and how far it gets.

    It writes `writes` of the rows that it has to, and merges where these are all; a rename is its last deed,
    done or not, where `dies_at` counts down to it.
    """

    overwrite: bool
    changed: frozenset[int]
    failing: frozenset[int]
    writes: int
    keeps: bool
    dies_at: int | None
    renamed: bool


numbers = st.frozensets(st.integers(0, _OBJECTS - 1), max_size=3)
runs = st.builds(
    Run,
    overwrite=st.sampled_from([False, False, True]),
    changed=numbers,
    failing=numbers,
    writes=st.integers(0, _OBJECTS) | st.just(_OBJECTS),
    keeps=st.booleans(),
    dies_at=st.none() | st.integers(0, 5),
    renamed=st.booleans(),
)
_WHOLE = Run(False, frozenset(), frozenset(), _OBJECTS, True, None, True)
_STOPPED_OVERWRITE = Run(True, frozenset(), frozenset(), 4, True, None, True)


@contextmanager
def dying(run: Run) -> Iterator[None]:
    rename, left = os.replace, [run.dies_at]

    def last(source: Any, target: Any) -> None:
        if left[0] is None or left[0] > 0:
            left[0] = None if left[0] is None else left[0] - 1
            rename(source, target)
            return
        if run.renamed:
            rename(source, target)
        raise Killed

    with patch.object(os, "replace", last), suppress(Killed):
        yield


class Album:
    """What is in the bucket, and since which --overwrite the rows of OUT have to be."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.generations = [1] * _OBJECTS
        self.overwrites = self.oldest = 0

    def embed(self, run: Run) -> None:
        for number in run.changed:
            self.generations[number] += 1
        self.overwrites += run.overwrite
        with closing(ParquetSink(self.out)) as sink, dying(run):
            known = sink.open({}, 2, overwrite=run.overwrite, resume=True)
            if run.overwrite:
                assert not known
                self.oldest = self.overwrites
            todo = [item for item in map(self._info, range(_OBJECTS)) if item.key not in known]
            for item in todo[: run.writes]:
                sink.write(EmbeddedObject(item, PhotoResult.of(self._outcome(item, run))))
            if len(todo) <= run.writes:
                sink.finish()
            elif run.keeps and not sink.keep():
                self.oldest = 0  # an --overwrite of which nothing was kept is as if it had not been

    def rows(self) -> list[dict[str, Any]]:
        """Of OUT, if it is there: one for each object."""
        if not self.out.exists():
            return []
        rows: list[dict[str, Any]] = pq.read_table(self.out).to_pylist()
        assert sorted(row["name"] for row in rows) == [str(number) for number in range(_OBJECTS)]
        return rows

    def _info(self, number: int) -> ObjectInfo:
        return ObjectInfo(str(number), 1, self.generations[number])

    def _outcome(self, item: ObjectInfo, run: Run) -> Any:
        if int(item.name) in run.failing:
            return ItemError("truncated", "cut off")
        return np.array([int(item.name), self.overwrites], np.float32)


@settings(deadline=None, max_examples=80)
@given(history=st.lists(runs, max_size=5), shard_rows=st.integers(1, 4))
@example(history=[_WHOLE, _STOPPED_OVERWRITE], shard_rows=2)
def test_nothing_is_lost_and_nothing_doubled(history: list[Run], shard_rows: int) -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        patch.object(defaults, "SHARD_ROWS", shard_rows),
        patch.object(defaults, "ROW_GROUP_ROWS", 2 * shard_rows),
    ):
        album = Album(Path(folder) / "out.parquet")
        for run in history:
            album.embed(run)
            album.rows()
        album.embed(_WHOLE)
        rows = album.rows()
        assert len(rows) == _OBJECTS
        for row in rows:
            number = int(row["name"])
            assert row["generation"] == album.generations[number]
            assert row["error_code"] is None
            assert row["embedding"][0] == number
            assert row["embedding"][1] >= album.oldest
        assert os.listdir(folder) == ["out.parquet"]
