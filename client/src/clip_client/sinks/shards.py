"""The shards of an unfinished output: what is in them, and their merge into the finished files."""

from __future__ import annotations

import json
import shutil
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clip_client import defaults
from clip_client.errors import SinkError
from clip_client.sinks.base import StoredRow
from clip_client.sinks.schema import METADATA_KEY, SOURCE_KEY, conformed, has_vector, without_vectors

try:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq
except ImportError:  # an optional dependency; ParquetSink says so
    pa = pc = pq = None

_SHARDS = "shard-*.parquet"
_READ_BYTES = 1024 * 1024
_STATE = ("generation", "size", "mtime_ns", "crc32c", "error_code")
"""The columns of a StoredRow, in the order of its fields."""

Key = tuple[str | None, str]
"""Source and name of an object. The source is None if the row does not name it."""


class Shards:
    """The shard files in `folder`. A later shard's row replaces an earlier one's of the same object.

    The first shards are copies of an older output and of its errors.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.first = folder / "shard-000000.parquet"
        self.first_errors = folder / "shard-000000-errors.parquet"
        self.merging = folder / "merging"
        """A file that is there while the shards are merged."""
        self.unnamed: str | None = None
        """The source of rows that do not name theirs, which version 0.1 wrote; None if it is not known."""

    def paths(self) -> list[Path]:
        return sorted(self.folder.glob(_SHARDS))

    def next(self) -> Path:
        """The path of a new last shard."""
        number = max((int(path.stem.split("-")[1]) for path in self.paths()), default=0) + 1
        return self.folder / f"shard-{number:06d}.parquet"

    def remove(self) -> None:
        """Removes all shards, older ones first: whatever is left after a kill is not older than OUT."""
        for path in (self.first, *self.paths()):
            with suppress(OSError):
                path.unlink()
        shutil.rmtree(self.folder, ignore_errors=True)

    def known(self, source: str) -> dict[str, StoredRow]:
        """The newest row of each object of `source`, by name."""
        return {name: row for (where, name), row in self._newest_rows().items() if where == source}

    def counts(self) -> Counter[str]:
        """The number of objects by error code; "" for those that have none."""
        return Counter(row.error_code or "" for row in self._newest_rows().values())

    def _newest_rows(self) -> dict[Key, StoredRow]:
        rows: dict[Key, StoredRow] = {}
        for path in self.paths():
            for _, batch in batches(path, ["source", "name", *_STATE]):
                assumed = [source is None and self.unnamed is not None for source in column(batch, "source")]
                states = zip(*(column(batch, name) for name in _STATE), assumed, strict=True)
                rows.update(zip(self.keys(batch), (StoredRow(*state) for state in states), strict=True))
        return rows

    def keys(self, batch: Any) -> Iterator[Key]:
        sources = (sys.intern(source) if source else self.unnamed for source in column(batch, "source"))
        return zip(sources, column(batch, "name"), strict=True)

    def merged(
        self, schema: Any, times: Mapping[Key, int | None], removed: Collection[Key], counts: Counter[str]
    ) -> Merge:
        """Each object's newest row, without the objects that were `removed`.

        `times` has modification times that are newer than those in the rows. The rows' error codes are added
        to `counts` as they are read.
        """
        newest: dict[Key, tuple[str, int]] = {}
        for path in self.paths():
            for begin, batch in batches(path, ["source", "name"]):
                newest.update((key, (path.name, row)) for row, key in enumerate(self.keys(batch), begin))
        for key in removed:
            newest.pop(key, None)
        return Merge(self, schema, times, newest, counts)


@dataclass(frozen=True)
class Merge:
    """The rows of a finished output, in tables of about ROW_GROUP_ROWS rows."""

    shards: Shards
    schema: Any
    times: Mapping[Key, int | None]
    newest: Mapping[Key, tuple[str, int]]
    counts: Counter[str]

    def embedded(self) -> Iterator[Any]:
        """The rows that have a vector."""
        return self._tables(self.schema, vectors=True)

    def errors(self) -> Iterator[Any]:
        """The rows that have none, without that column."""
        return self._tables(without_vectors(self.schema), vectors=False)

    def _tables(self, schema: Any, *, vectors: bool) -> Iterator[Any]:
        tables, rows = [], 0
        for path in self.shards.paths():
            for begin, batch in batches(path):
                table = self._selected(path, begin, batch, schema, vectors=vectors)
                self.counts.update(code or "" for code in table.column("error_code").to_pylist())
                tables.append(table)
                rows += table.num_rows
                if rows >= defaults.ROW_GROUP_ROWS:
                    yield pa.concat_tables(tables)
                    tables, rows = [], 0
        if rows:
            yield pa.concat_tables(tables)

    def _selected(self, path: Path, begin: int, batch: Any, schema: Any, *, vectors: bool) -> Any:
        keys = list(self.shards.keys(batch))
        is_wanted = has_vector(batch) == vectors
        keep = [
            bool(is_wanted[row]) and self.newest.get(key) == (path.name, begin + row)
            for row, key in enumerate(keys)
        ]
        times = column(batch, "mtime_ns")
        table = conformed(
            batch,
            schema,
            source=[source for source, _ in keys],
            mtime_ns=[self.times.get(key, time) for key, time in zip(keys, times, strict=True)],
            **(_errors_as_notices(batch) if vectors else {}),
        )
        return table.filter(pa.array(keep, pa.bool_()))


def _errors_as_notices(batch: Any) -> dict[str, list[Any]]:
    """Columns for rows that have a vector: in version 0.1, a truncated photo could also have an error."""
    codes = column(batch, "error_code")
    if not any(codes):
        return {}
    columns = (codes, *(column(batch, name) for name in ("error_text", "notices", "notice_text")))
    rows = [
        ([code], text) if code else (notices, notice)
        for code, text, notices, notice in zip(*columns, strict=True)
    ]
    nothing = [None] * batch.num_rows
    return {
        "error_code": nothing,
        "error_text": nothing,
        "notices": [notices for notices, _ in rows],
        "notice_text": [text for _, text in rows],
    }


def column(batch: Any, name: str) -> list[Any]:
    """The values of a column; None for one that files of version 0.1 do not have."""
    if name not in batch.schema.names:
        return [None] * batch.num_rows
    values: list[Any] = batch.column(name).to_pylist()
    return values


def batches(path: Path, columns: list[str] | None = None) -> Iterator[tuple[int, Any]]:
    """A file's record batches, each with the number of its first row; only those `columns` that it has.

    The file may be an OUT larger than memory. It is read in small pieces and by this thread alone,
    because each of Arrow's own threads would keep memory for itself.
    """
    begin = 0
    with _reading(path), pq.ParquetFile(path, buffer_size=_READ_BYTES) as file:
        if columns is not None:
            columns = [name for name in columns if name in file.schema_arrow.names]
        for batch in file.iter_batches(defaults.SHARD_ROWS, columns=columns, use_threads=False):
            yield begin, batch
            begin += batch.num_rows


def described(path: Path) -> dict[str, str]:
    """The description of the model that made a file's vectors."""
    values: dict[str, str] = json.loads(_metadata(path).get(METADATA_KEY, b"{}"))
    return values


def _metadata(path: Path) -> dict[bytes, bytes]:
    """The metadata of an output. Raises SinkError for a Parquet file of other columns."""
    with _reading(path), pq.ParquetFile(path) as file:
        schema = file.schema_arrow
    if not {"name", "generation"} <= set(schema.names):
        raise SinkError(f"{path} has no embeddings of clip-embed. Choose another --out, or --overwrite")
    return schema.metadata or {}


def is_overwriting(first: Path) -> bool:
    """Whether a first shard stands for rows that are overwritten, instead of having them."""
    return first.exists() and SOURCE_KEY in _metadata(first)


def sources_of(path: Path, source: str) -> set[str]:
    """The sources that a file's rows name, and that a run began to read which overwrites.

    For rows of version 0.1, which name none: nothing if they can be rows of `source`, else "a bucket" or "a
    folder". Only rows of buckets have generations.
    """
    found: set[str] = set()
    if begun := _metadata(path).get(SOURCE_KEY):
        found.add(begun.decode())
    for _, batch in batches(path, ["source", "generation"]):
        if "source" in batch.schema.names:
            found.update(filter(None, pc.unique(batch.column("source")).to_pylist()))
        elif batch.num_rows:
            is_bucket = batch.column("generation").null_count < batch.num_rows
            if is_bucket != source.startswith("gs://"):
                found.add("a bucket" if is_bucket else "a folder")
    return found


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise SinkError(f"cannot read {path} ({error}). Remove it and run again") from error
