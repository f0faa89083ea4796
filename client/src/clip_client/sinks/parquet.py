"""Embeddings in one Parquet file.

Rows go to numbered shard files in `OUT.parts/`, each complete or absent. finish() merges them into OUT with
one rename and removes them. An interrupted run leaves its shards for the next one. Two runs on one OUT would
remove each other's shards, so a lock admits one at a time.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from clip_client import defaults
from clip_client.errors import SinkError
from clip_client.files import FileLock, replacing
from clip_client.results import Embedding, PhotoResult
from clip_client.sinks.base import EmbeddedObject, check_same_model, how_to_continue
from clip_client.sources.base import ObjectKey

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError:  # an optional dependency; the constructor says so
    pa = pq = None

METADATA_KEY = b"clip_triton"

_SHARDS = "shard-*.parquet"
_READ_BYTES = 1024 * 1024


class ParquetSink:
    """A Sink that writes the Parquet file `out`, with the model's description in its metadata."""

    def __init__(self, out: Path) -> None:
        if pa is None:
            raise SinkError(
                "Parquet needs pyarrow. In a clone of clip-triton: pip install './client[parquet]'"
            )
        _refuse_other_than_files(out)
        self._out = out
        self._parts = out.with_name(out.name + ".parts")
        self._first = self._parts / "shard-000000.parquet"
        self._lock = FileLock(out.with_name(f".{out.name}.lock"))
        self._overwrite = False
        self._rows: list[EmbeddedObject] = []
        self._flushed = time.monotonic()

    @property
    def uri(self) -> str:
        return str(self._out)

    @property
    def unfinished(self) -> str | None:
        return str(self._parts) if any(self._parts.glob(_SHARDS)) else None

    @property
    def local_paths(self) -> tuple[Path, ...]:
        return (self._out, self._parts)

    def open(
        self, model: Mapping[str, str], dimension: int, *, overwrite: bool = False, resume: bool = False
    ) -> set[ObjectKey]:
        self._overwrite = overwrite
        self._model, self._dimension = model, dimension
        self._schema = _schema(model, dimension)
        try:
            self._out.parent.mkdir(parents=True, exist_ok=True)
            if not self._lock.acquire():
                raise SinkError(
                    f"another run is writing {self._out}. Wait until it ends, or choose another --out"
                )
            if self._out.exists() and not (overwrite or resume):
                raise SinkError(f"{self._out} exists. Give --resume to complete it, or --overwrite")
            if self._out.exists() and not overwrite and not self._first.exists():
                self._check_model(self._out)
            self._parts.mkdir(exist_ok=True)
            if overwrite:
                self._forget()
            elif self._out.exists() and not self._first.exists():
                self._start_from_out()
        except OSError as error:
            raise SinkError(f"cannot write to {self._parts}: {error.strerror}") from error
        return {key for key, code in self._known() if code is None}

    def close(self) -> None:
        self._lock.release()

    def write(self, item: EmbeddedObject) -> None:
        """Takes one row. Every SHARD_ROWS rows or SHARD_SECONDS the rows become a shard."""
        self._rows.append(item)
        waited = time.monotonic() - self._flushed
        if len(self._rows) >= defaults.SHARD_ROWS or waited > defaults.SHARD_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Writes the pending rows as a shard. Raises SinkError, and keeps the rows, if the disk is full."""
        if self._rows:
            number = max((int(path.stem.split("-")[1]) for path in self._shards()), default=0) + 1
            self._write(self._parts / f"shard-{number:06d}.parquet", iter([self._table()]))
            self._rows = []
        self._flushed = time.monotonic()

    def finish(self) -> dict[str, int]:
        self.flush()
        counts: Counter[str] = Counter()
        self._write(self._out, self._row_groups(counts))
        self._remove_shards()
        return counts

    def keep(self) -> dict[str, int]:
        self.flush()
        counts = Counter(code or "" for _, code in self._known())
        if not counts:
            self._remove_shards()
        return counts

    def _start_from_out(self) -> None:
        """Copies OUT to the first shard. OUT itself stays until the new one replaces it."""
        with replacing(self._first) as temporary:
            shutil.copyfile(self._out, temporary)

    def _forget(self) -> None:
        """Removes earlier shards. An empty first one keeps the next run from starting with OUT."""
        self._write(self._first, iter(()))
        for path in self._shards():
            if path != self._first:
                path.unlink()

    def _remove_shards(self) -> None:
        # The copy of an older OUT goes first: if this is interrupted, only rows that OUT has too remain.
        with suppress(OSError):
            self._first.unlink()
        shutil.rmtree(self._parts, ignore_errors=True)

    def _shards(self) -> list[Path]:
        return sorted(self._parts.glob(_SHARDS))

    def _row_groups(self, counts: Counter[str]) -> Iterator[Any]:
        """Tables of about ROW_GROUP_ROWS rows, each object's newest. Adds their error codes to `counts`."""
        newest = self._newest()
        tables, rows = [], 0
        for path in self._shards():
            for begin, batch in self._batches(path):
                names = batch.column("name").to_pylist()
                keep = [newest[name] == (path.name, row) for row, name in enumerate(names, begin)]
                kept = batch.filter(pa.array(keep, pa.bool_()))
                counts.update(code or "" for code in kept.column("error_code").to_pylist())
                tables.append(_in_schema(kept, self._schema))
                rows += kept.num_rows
                if rows >= defaults.ROW_GROUP_ROWS:
                    yield pa.concat_tables(tables)
                    tables, rows = [], 0
        if rows:
            yield pa.concat_tables(tables)

    def _newest(self) -> dict[str, tuple[str, int]]:
        """The shard and row number of each object's newest row: later runs replace rows of earlier ones."""
        places = {}
        for path in self._shards():
            for begin, batch in self._batches(path, ["name"]):
                for row, name in enumerate(batch.column("name").to_pylist(), begin):
                    places[name] = (path.name, row)
        return places

    def _known(self) -> Iterable[tuple[ObjectKey, str | None]]:
        """The key and error code of each object's newest row."""
        columns = ["name", "generation", "size", "error_code"]
        rows: dict[str, tuple[ObjectKey, str | None]] = {}
        for path in self._shards():
            self._check_model(path)
            for _, batch in self._batches(path, columns):
                for name, generation, size, code in zip(
                    *(batch.column(column).to_pylist() for column in columns), strict=True
                ):
                    rows[name] = ((name, generation, size), code)
        return rows.values()

    def _check_model(self, path: Path) -> None:
        with _reading(path), pq.ParquetFile(path) as file:
            metadata = file.schema_arrow.metadata or {}
        check_same_model(str(path), json.loads(metadata.get(METADATA_KEY, b"{}")), self._model)

    def _batches(self, path: Path, columns: list[str] | None = None) -> Iterator[tuple[int, Any]]:
        """A shard's record batches, each with the number of its first row.

        The shard may be an OUT larger than memory. It is read in small pieces and by this thread alone,
        because each of Arrow's own threads would keep memory for itself.
        """
        begin = 0
        with _reading(path), pq.ParquetFile(path, buffer_size=_READ_BYTES) as file:
            for batch in file.iter_batches(defaults.SHARD_ROWS, columns=columns, use_threads=False):
                yield begin, batch
                begin += batch.num_rows

    def _table(self) -> Any:
        infos = [item.info for item in self._rows]
        errors = [item.error for item in self._rows]
        results = [item.result for item in self._rows]
        columns = [
            pa.array([info.name for info in infos], pa.string()),
            pa.array([info.generation for info in infos], pa.int64()),
            pa.array([info.size for info in infos], pa.int64()),
            pa.array([info.crc32c for info in infos], pa.string()),
            pa.FixedSizeListArray.from_arrays(pa.array(self._vectors().reshape(-1)), self._dimension),
            pa.array([error and error.code for error in errors], pa.string()),
            pa.array([error and error.text for error in errors], pa.string()),
            pa.array([result.width for result in results], pa.int32()),
            pa.array([result.height for result in results], pa.int32()),
            pa.array([result.format for result in results], pa.string()),
            pa.array([result.decode_scale for result in results], pa.int32()),
            pa.array([_codes(result) for result in results], pa.list_(pa.string())),
            pa.array([_notice_text(result) for result in results], pa.string()),
        ]
        return pa.Table.from_arrays(columns, schema=self._schema)

    def _vectors(self) -> Embedding:
        """float32 [rows, D]; NaN for failed photos, because pyarrow writes no null fixed-size lists."""
        vectors = np.full((len(self._rows), self._dimension), np.nan, np.float32)
        for row, item in enumerate(self._rows):
            if item.vector is not None:
                vectors[row] = item.vector
        return vectors

    def _write(self, path: Path, tables: Iterator[Any]) -> None:
        try:
            with replacing(path) as temporary, pq.ParquetWriter(temporary, self._schema) as writer:
                for table in tables:
                    writer.write_table(table)
        except OSError as error:
            raise SinkError(
                f"cannot write {path}: {os.strerror(error.errno) if error.errno else error}. Finished rows "
                f"are kept in {self._parts}. Free some space, then "
                f"{how_to_continue(overwrite=self._overwrite)}"
            ) from error


def _schema(model: Mapping[str, str], dimension: int) -> Any:
    return pa.schema(
        [
            ("name", pa.string()),
            ("generation", pa.int64()),
            ("size", pa.int64()),
            ("crc32c", pa.string()),
            ("embedding", pa.list_(pa.float32(), dimension)),
            ("error_code", pa.string()),
            ("error_text", pa.string()),
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("format", pa.string()),
            ("decode_scale", pa.int32()),
            ("notices", pa.list_(pa.string())),
            ("notice_text", pa.string()),
        ],
        metadata={METADATA_KEY: json.dumps(dict(model)).encode()},
    )


def _in_schema(batch: Any, schema: Any) -> Any:
    """A table with the columns of `schema`. Those that a file of an older release lacks are null."""
    names = batch.schema.names
    columns = [
        batch.column(field.name).cast(field.type)
        if field.name in names
        else pa.nulls(batch.num_rows, field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _codes(result: PhotoResult) -> list[str]:
    return [notice.code for notice in result.notices]


def _notice_text(result: PhotoResult) -> str | None:
    """The notices' texts, a line each; null if there are none."""
    return "\n".join(notice.text for notice in result.notices) or None


def _refuse_other_than_files(out: Path) -> None:
    """A rename over /dev/null or a pipe would replace it by a file."""
    try:
        if out.is_dir():
            raise SinkError(f"{out} is a folder. Give the path of the file to write")
        if out.exists() and not out.is_file():
            raise SinkError(f"{out} is not a regular file. Give the path of the file to write")
    except OSError as error:
        raise SinkError(f"cannot write {out}: {error.strerror}") from error


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise SinkError(f"cannot read {path} ({error}). Remove it and run again") from error
