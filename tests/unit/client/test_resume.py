"""Any history of runs over two sources: each object ends as one embedding or one error, exactly once."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_client import ClipClient, EmbeddedObject, ItemError, ObjectInfo, RunOptions, embed_all
from clip_client.errors import PERMANENT_CODES
from clip_client.sinks.parquet import ParquetSink, errors_path
from clip_client.sources.base import crc32c
from tests.unit.client.servers import FakeTransport

_OBJECTS = 5
_CODES = ("corrupt", "too_many_bytes", "load_failed", "request_failed")
numbers = st.frozensets(st.integers(0, _OBJECTS - 1), max_size=2)


@dataclass(frozen=True)
class Run:
    """What happens to one source, and then the run on it.

    Objects `replaced` get another content of equal size, those `touched` only another version, those
    `missing` are deleted or come back. `failing` objects fail with `code`. The run is interrupted after
    `stops_at` objects, if it gets that far.
    """

    source: int
    replaced: frozenset[int]
    touched: frozenset[int]
    missing: frozenset[int]
    failing: frozenset[int]
    code: str
    stops_at: int
    prune: bool
    retries: bool


runs = st.builds(
    Run,
    source=st.integers(0, 1),
    replaced=numbers,
    touched=numbers,
    missing=numbers,
    failing=numbers,
    code=st.sampled_from(_CODES),
    stops_at=st.integers(1, 3 * _OBJECTS),
    prune=st.booleans(),
    retries=st.booleans(),
)


class Place:
    """A source in memory. Source 0 is a bucket, whose objects have generations; 1 is a folder."""

    def __init__(self, number: int) -> None:
        self.uri = ("gs://album", "/album")[number]
        self._is_bucket = number == 0
        self.contents = [0] * _OBJECTS
        self.versions = [1] * _OBJECTS
        self.missing: frozenset[int] = frozenset()
        self.failing: frozenset[int] = frozenset()
        self.code = ""

    def change(self, run: Run) -> None:
        self.failing, self.code, self.missing = run.failing, run.code, self.missing ^ run.missing
        for number in run.replaced | run.touched:
            self.versions[number] += 1
        for number in run.replaced:
            self.contents[number] += 1

    def data(self, number: int) -> bytes:
        return f"{self.uri[:2]}{number}{self.contents[number]:03}".encode()

    def check(self) -> None:
        """Can always be listed."""

    def covers(self, name: str) -> bool:
        return bool(name)

    def list(self) -> Iterator[ObjectInfo]:
        for number in sorted(set(range(_OBJECTS)) - self.missing):
            data, version = self.data(number), self.versions[number]
            info = ObjectInfo(str(number), len(data))
            if self._is_bucket:
                yield replace(info, generation=version, crc32c=crc32c(data))
            else:
                yield replace(info, mtime_ns=version)

    def load(self, item: ObjectInfo) -> bytes:
        if int(item.name) in self.failing:
            raise ItemError(self.code, "as planned")
        return self.data(int(item.name))


class History:
    def __init__(self, out: Path) -> None:
        self.out = out
        self.places = (Place(0), Place(1))

    def run(self, run: Run) -> bool:
        """Whether it came to its end."""
        place, seen = self.places[run.source], []
        place.change(run)

        def stop(item: EmbeddedObject) -> None:
            seen.append(item.name)
            if len(seen) == run.stops_at:
                raise KeyboardInterrupt

        codes = PERMANENT_CODES if run.retries else ()
        options = RunOptions(
            resume=True,
            add_source=True,
            retry_errors=codes,
            prune=run.prune and len(place.missing) < _OBJECTS,
        )
        with ClipClient(transport=FakeTransport(lambda _: None), concurrency=2) as client:
            summary = embed_all(client, place, ParquetSink(self.out), options, on_item=stop)
        assert len(seen) == len(set(seen)), "no object twice in one run"
        return not summary.interrupted

    def rows(self, uri: str) -> dict[str, dict[str, Any]]:
        rows = [{"embedding": None, **row} for row in pq.read_table(self.out).to_pylist()]
        if errors_path(self.out).exists():
            rows += [{"embedding": None, **row} for row in pq.read_table(errors_path(self.out)).to_pylist()]
        keys = [(row["source"], row["name"]) for row in rows]
        assert len(keys) == len(set(keys)), "one row for each object"
        assert all((row["embedding"] is None) != (row["error_code"] is None) for row in rows)
        return {row["name"]: row for row in rows if row["source"] == uri}

    def check(self, run: Run) -> None:
        """After a run that came to its end: its source's objects have the rows that it had to give them."""
        place = self.places[run.source]
        rows, listed = self.rows(place.uri), {item.name: item for item in place.list()}
        if run.prune and listed:
            assert rows.keys() == listed.keys()
        assert rows.keys() >= listed.keys()
        for name, item in listed.items():
            row, number = rows[name], int(name)
            code = row["error_code"]
            assert (row["generation"], row["size"]) == (item.generation, item.size)
            if code is None:
                assert row["crc32c"] == crc32c(place.data(number)), "the vector of what is there now"
            elif number not in run.failing:
                assert code in PERMANENT_CODES
                assert not run.retries


@settings(max_examples=25)
@given(history=st.lists(runs, min_size=1, max_size=6))
def test_each_object_ends_exactly_once(history: list[Run]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        past = History(Path(folder) / "out.parquet")
        empty = frozenset[int]()
        for run in history:
            place = past.places[run.source]
            if len(place.missing ^ run.missing) == _OBJECTS:
                continue  # a source without any object is an error
            if past.run(run):
                past.check(run)
        for number in (0, 1):
            last = Run(number, empty, empty, past.places[number].missing, empty, "", 99, True, True)
            assert past.run(last)
            past.check(last)
            rows = past.rows(past.places[number].uri)
            assert len(rows) == _OBJECTS
            assert {row["error_code"] for row in rows.values()} == {None}
