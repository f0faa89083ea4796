"""Embeddings to one Parquet file, by way of finished shards that survive whatever happens.

Rows go to numbered shard files in `OUT.parts/`, each complete or absent. The end merges them into
OUT, by one rename, and removes them. A run that was cut off leaves its shards for the next one. Runs on
one OUT would take each other's shards away, so a lock lets in one at a time.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from clip_client import defaults
from clip_client.errors import ItemError, SinkError
from clip_client.requests.wire import Embedding
from clip_client.sinks.lock import Lock
from clip_client.sources.gcs import ObjectInfo
from clip_client.stream import EmbeddedObject

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError:  # an extra of this distribution; said when it is wanted
    pa = pq = None

METADATA_KEY = b"clip_triton"
SETTINGS = ("quality", "apply_exif_orientation", "encoder_precision")
"""Of the model's description: the server's settings that change a photo's vector."""

_SHARDS = "shard-*.parquet"
_READ_BYTES = 1024 * 1024

Key = tuple[str, int | None, int]
"""Name, generation and size: what is known of an object before it is loaded."""


class ParquetSink:
    """Writes EmbeddedObjects: `open()`, `write()` each, `finish()`, within a `with` block.

    Its end lets other runs at OUT again, and leaves the shards as they are. `model` describes the model
    whose vectors these are, and the server's SETTINGS where it tells them; shards of others are refused.
    """

    def __init__(self, out: Path, dimension: int, model: dict[str, str]) -> None:
        if pa is None:
            raise SinkError("Parquet needs pyarrow: pip install 'clip-triton-client[parquet]'")
        self._out = out
        self._dimension = dimension
        self.parts = parts_of(out)
        self._first = self.parts / "shard-000000.parquet"
        self._lock = Lock(out.with_name(f".{out.name}.lock"))
        self._schema = pa.schema(
            [
                ("name", pa.string()),
                ("generation", pa.int64()),
                ("size", pa.int64()),
                ("crc32c", pa.string()),
                ("embedding", pa.list_(pa.float32(), dimension)),
                ("error_code", pa.string()),
                ("error_text", pa.string()),
            ],
            metadata={METADATA_KEY: json.dumps(model).encode()},
        )
        self._model = model
        self._overwrite = False
        self._rows: list[EmbeddedObject] = []
        self._flushed = time.monotonic()

    def __enter__(self) -> ParquetSink:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._lock.release()

    def open(self, *, overwrite: bool = False, resume: bool = False) -> set[Key]:
        """Makes ready to write; returns the keys of objects that earlier runs embedded.

        Raises SinkError where another run writes to OUT, where OUT exists and neither flag says what to
        do, where earlier rows are of another model or other settings, or where the folder cannot be written.
        """
        self._overwrite = overwrite
        try:
            self._out.parent.mkdir(parents=True, exist_ok=True)
            if not self._lock.take():
                raise SinkError(
                    f"another run is writing {self._out}: wait for its end, or choose another --out"
                )
            if self._out.exists() and not (overwrite or resume):
                raise SinkError(f"{self._out} exists: give --resume to complete it or --overwrite")
            if self._out.exists() and not overwrite and not self._first.exists():
                self._check_model(self._out)
            self.parts.mkdir(exist_ok=True)
            if overwrite:
                self._forget()
            elif self._out.exists() and not self._first.exists():
                self._take_up()
        except OSError as error:
            raise SinkError(f"{self.parts} cannot be written: {error.strerror}") from error
        return {key for key, code in self._known() if code is None}

    def write(self, item: EmbeddedObject) -> None:
        """Takes one row; every SHARD_ROWS rows or SHARD_SECONDS they become a shard."""
        self._rows.append(item)
        waited = time.monotonic() - self._flushed
        if len(self._rows) >= defaults.SHARD_ROWS or waited > defaults.SHARD_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Makes a shard of the rows at hand; raises SinkError, and keeps them, when the disk is full."""
        if self._rows:
            number = max((int(path.stem.split("-")[1]) for path in self._shards()), default=0) + 1
            self._write(self.parts / f"shard-{number:06d}.parquet", iter([self._table()]))
            self._rows = []
        self._flushed = time.monotonic()

    def finish(self) -> dict[str, int]:
        """Merges all shards into OUT; returns how many rows by error code ("" for embedded)."""
        self.flush()
        counts: Counter[str] = Counter()
        self._write(self._out, self._row_groups(counts))
        self._remove_shards()
        return counts

    def keep(self) -> dict[str, int]:
        """Leaves the rows to another run, and OUT as it was; counts them as finish() does."""
        self.flush()
        counts = Counter(code or "" for _, code in self._known())
        if not counts:
            self._remove_shards()
        return counts

    def _take_up(self) -> None:
        """Makes OUT the first shard: a copy, as OUT stays whole until the new one takes its place."""
        temporary = self._first.with_name(f".{self._first.name}.{os.getpid()}")
        shutil.copyfile(self._out, temporary)
        os.replace(temporary, self._first)

    def _forget(self) -> None:
        """Removes earlier shards; an empty first one keeps whoever goes on from taking up OUT."""
        self._write(self._first, iter(()))
        for path in self._shards():
            if path != self._first:
                path.unlink()

    def _remove_shards(self) -> None:
        # First the copy of an older OUT: cut off after that, what remains are rows that OUT has too.
        with suppress(OSError):
            self._first.unlink()
        shutil.rmtree(self.parts, ignore_errors=True)

    def _shards(self) -> list[Path]:
        return sorted(self.parts.glob(_SHARDS))

    def _row_groups(self, counts: Counter[str]) -> Iterator[Any]:
        """Tables of about ROW_GROUP_ROWS rows, each object's newest; their codes are added to `counts`."""
        newest = self._newest()
        tables, rows = [], 0
        for path in self._shards():
            for begin, batch in self._batches(path):
                names = batch.column("name").to_pylist()
                keep = [newest[name] == (path.name, row) for row, name in enumerate(names, begin)]
                kept = batch.filter(pa.array(keep, pa.bool_()))
                counts.update(code or "" for code in kept.column("error_code").to_pylist())
                tables.append(pa.Table.from_batches([kept]).cast(self._schema))
                rows += kept.num_rows
                if rows >= defaults.ROW_GROUP_ROWS:
                    yield pa.concat_tables(tables)
                    tables, rows = [], 0
        if rows:
            yield pa.concat_tables(tables)

    def _newest(self) -> dict[str, tuple[str, int]]:
        """Where each object's last row is: a later run's row replaces an earlier one's."""
        places = {}
        for path in self._shards():
            for begin, batch in self._batches(path, ["name"]):
                for row, name in enumerate(batch.column("name").to_pylist(), begin):
                    places[name] = (path.name, row)
        return places

    def _known(self) -> Iterable[tuple[Key, str | None]]:
        """Each object's newest row: its key and its error's code."""
        columns = ["name", "generation", "size", "error_code"]
        rows: dict[str, tuple[Key, str | None]] = {}
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
        written = json.loads(metadata.get(METADATA_KEY, b"{}"))
        if written.get("weights_sha256") != self._model.get("weights_sha256"):
            raise SinkError(
                f"{path} holds another model's embeddings ({written.get('model')}, "
                f"{written.get('pretrained')}): choose another --out, or give --overwrite"
            )
        for name in SETTINGS:
            then, now = written.get(name), self._model.get(name)
            if then and now and then != now:
                raise SinkError(
                    f"{path} holds embeddings made with {name} {then}, and the server has {now}: start it as "
                    "it was, choose another --out, or give --overwrite"
                )

    def _batches(self, path: Path, columns: list[str] | None = None) -> Iterator[tuple[int, Any]]:
        """A shard's record batches, each with the number of its first row.

        The shard may be an OUT larger than memory: it is read in small pieces, and by this thread alone, as
        each of Arrow's own would keep memory for itself.
        """
        begin = 0
        with _reading(path), pq.ParquetFile(path, buffer_size=_READ_BYTES) as file:
            for batch in file.iter_batches(defaults.SHARD_ROWS, columns=columns, use_threads=False):
                yield begin, batch
                begin += batch.num_rows

    def _table(self) -> Any:
        infos = [item.info for item in self._rows]
        errors = [item.outcome if isinstance(item.outcome, ItemError) else None for item in self._rows]
        columns = [
            pa.array([info.name for info in infos], pa.string()),
            pa.array([info.generation for info in infos], pa.int64()),
            pa.array([info.size for info in infos], pa.int64()),
            pa.array([info.crc32c for info in infos], pa.string()),
            pa.FixedSizeListArray.from_arrays(pa.array(self._vectors().reshape(-1)), self._dimension),
            pa.array([error and error.code for error in errors], pa.string()),
            pa.array([error and error.text for error in errors], pa.string()),
        ]
        return pa.Table.from_arrays(columns, schema=self._schema)

    def _vectors(self) -> Embedding:
        """float32 [rows, D]; NaN where a photo failed: pyarrow writes no null fixed-size lists."""
        vectors = np.full((len(self._rows), self._dimension), np.nan, np.float32)
        for row, item in enumerate(self._rows):
            outcome = item.outcome
            vector = outcome.embedding if isinstance(outcome, ItemError) else outcome
            if vector is not None:
                vectors[row] = vector
        return vectors

    def _write(self, path: Path, tables: Iterator[Any]) -> None:
        """Writes the whole file beside `path`, then renames it."""
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with pq.ParquetWriter(temporary, self._schema) as writer:
                for table in tables:
                    writer.write_table(table)
            os.replace(temporary, path)
        except OSError as error:
            raise SinkError(
                f"{path} cannot be written: {os.strerror(error.errno) if error.errno else error}. "
                f"What was finished before is kept in {self.parts}: make room and {way_on(self._overwrite)}"
            ) from error
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise SinkError(f"{path} cannot be read ({error}): remove it and run again") from error


def parts_of(out: Path) -> Path:
    return out.with_name(out.name + ".parts")


def has_shards(out: Path) -> bool:
    """Whether a run was cut off here, for another to go on."""
    return any(parts_of(out).glob(_SHARDS))


def way_on(overwrite: bool) -> str:
    """What to do after a run that was cut off, and that overwrote OUT or not."""
    again = "run it with --resume in the place of --overwrite" if overwrite else "run the same command again"
    return f"{again}, and it goes on from there"


def key_of(info: ObjectInfo) -> Key:
    return (info.name, info.generation, info.size)
