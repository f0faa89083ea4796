"""Runs that die anywhere, even at a rename: OUT is whole whenever it is there, and no row lost or doubled."""

from __future__ import annotations

import dataclasses
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

from clip_client import EmbeddedObject, Existing, ItemError, ObjectInfo, PhotoResult, StoredRow, defaults
from clip_client.sinks.parquet import ParquetSink, errors_path

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
_HALF_MERGED = [
    dataclasses.replace(_WHOLE, failing=frozenset({0, 1, 2})),
    dataclasses.replace(_WHOLE, dies_at=4, renamed=False),  # it has renamed the errors, and not OUT
    Run(True, frozenset(), frozenset(), 0, False, None, True),
    Run(False, frozenset(), frozenset(), 0, True, None, True),
]


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
    """What is in the source, and since which --overwrite the rows of OUT have to be.

    Objects are versioned by generation, or as in a folder by modification time: `is_bucket` says which.
    """

    def __init__(self, out: Path, *, is_bucket: bool) -> None:
        self.out = out
        self.is_bucket = is_bucket
        self.versions = [1] * _OBJECTS
        self.overwrites = self.oldest = 0

    def embed(self, run: Run) -> None:
        for number in run.changed:
            self.versions[number] += 1
        self.overwrites += run.overwrite
        with closing(ParquetSink(self.out)) as sink, dying(run):
            existing = Existing(overwrite=run.overwrite, resume=True)
            known = sink.open("gs://album" if self.is_bucket else "/album", {}, 2, existing)
            if run.overwrite:
                assert not known
                self.oldest = self.overwrites
            todo = [item for item in map(self._info, range(_OBJECTS)) if not _is_done(known, item)]
            for item in todo[: run.writes]:
                sink.write(EmbeddedObject(item, PhotoResult.of(self._outcome(item, run))))
            if len(todo) <= run.writes:
                sink.finish()
            elif run.keeps and not sink.keep():
                self.oldest = 0  # an --overwrite of which nothing was kept is as if it had not been

    def rows(self) -> list[dict[str, Any]]:
        """Of OUT and its errors, if they are there and no run has to go on: one for each object."""
        if not self.out.exists():
            return []
        rows: list[dict[str, Any]] = pq.read_table(self.out).to_pylist()
        assert all(np.isfinite(row["embedding"]).all() for row in rows)
        names = {row["name"] for row in rows}
        assert len(names) == len(rows)
        if not self.out.with_name("out.parquet.parts").exists():
            errors = errors_path(self.out)
            rows += pq.read_table(errors).to_pylist() if errors.exists() else []
            assert sorted(row["name"] for row in rows) == [str(number) for number in range(_OBJECTS)]
        return rows

    def _info(self, number: int) -> ObjectInfo:
        version = self.versions[number]
        if self.is_bucket:
            return ObjectInfo(str(number), 1, version)
        return ObjectInfo(str(number), 1, crc32c=str(version), mtime_ns=version)

    def _outcome(self, item: ObjectInfo, run: Run) -> Any:
        if int(item.name) in run.failing:
            return ItemError("truncated", "cut off")
        return np.array([int(item.name), self.overwrites], np.float32)


def _is_done(known: dict[str, StoredRow], item: ObjectInfo) -> bool:
    row = known.get(item.name)
    return row is not None and row.error_code is None and bool(row.is_current(item))


@settings(max_examples=80)
@given(history=st.lists(runs, max_size=5), shard_rows=st.integers(1, 4), is_bucket=st.booleans())
@example(history=[_WHOLE, _STOPPED_OVERWRITE], shard_rows=2, is_bucket=True)
@example(history=_HALF_MERGED, shard_rows=4, is_bucket=False)
def test_no_row_is_lost_or_duplicated(history: list[Run], shard_rows: int, is_bucket: bool) -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        patch.object(defaults, "SHARD_ROWS", shard_rows),
        patch.object(defaults, "ROW_GROUP_ROWS", 2 * shard_rows),
    ):
        album = Album(Path(folder) / "out.parquet", is_bucket=is_bucket)
        for run in history:
            album.embed(run)
            album.rows()
        album.embed(_WHOLE)
        rows = album.rows()
        assert len(rows) == _OBJECTS
        for row in rows:
            number = int(row["name"])
            assert row["generation" if is_bucket else "mtime_ns"] == album.versions[number]
            assert row["error_code"] is None
            assert row["embedding"][0] == number
            assert row["embedding"][1] >= album.oldest
        assert os.listdir(folder) == ["out.parquet"]
