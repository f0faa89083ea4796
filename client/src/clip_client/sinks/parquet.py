"""Embeddings in one Parquet file, and the errors of failed photos in another.

Rows go to numbered shard files in `OUT.parts/`, each complete or absent. finish() merges them into OUT with
one rename and removes them. An interrupted run leaves its shards for the next one. Two runs on one OUT would
remove each other's shards, so a lock admits one at a time.
"""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from clip_client import defaults
from clip_client.errors import SinkError
from clip_client.files import FileLock, replacing
from clip_client.sinks.base import (
    EmbeddedObject,
    Existing,
    StoredRow,
    check_same_model,
    check_same_source,
    how_to_continue,
)
from clip_client.sinks.schema import METADATA_KEY, SOURCE_KEY, schema_of, table_of, without_vectors
from clip_client.sinks.shards import Key, Shards, described, sources_of
from clip_client.sources.base import ObjectInfo

try:
    import pyarrow.parquet as pq
except ImportError:  # an optional dependency; the constructor says so
    pq = None

__all__ = ["METADATA_KEY", "ParquetSink", "errors_path"]


def errors_path(out: Path) -> Path:
    """The file of the failed photos beside the output `out`: a.errors.parquet for a.parquet."""
    return out.with_name(f"{out.stem}.errors{out.suffix}")


class ParquetSink:
    """A Sink that writes the Parquet file `out`, with the model's description in its metadata.

    Every row of `out` has a vector. Photos that failed have their rows in the file errors_path(out), which
    exists only if there are any.
    """

    def __init__(self, out: Path) -> None:
        if pq is None:
            raise SinkError(
                "Parquet needs pyarrow. In a clone of clip-triton: pip install './client[parquet]'"
            )
        _refuse_other_than_files(out)
        self.uri = str(out)
        self._named = out
        self._out = out.resolve() if out.is_symlink() else out  # a link stays, and its file is replaced
        self._errors = errors_path(self._out)
        self.errors_uri = str(self._errors)
        self._shards = Shards(self._out.with_name(self._out.name + ".parts"))
        self._lock = FileLock(self._out.with_name(f".{self._out.name}.lock"))
        self._source = ""
        self._existing = Existing()
        self._rows: list[EmbeddedObject] = []
        self._flushed = time.monotonic()
        self._times: dict[Key, int | None] = {}
        self._removed: set[Key] = set()

    @property
    def unfinished(self) -> str | None:
        return str(self._shards.folder) if self._shards.paths() else None

    @property
    def local_paths(self) -> tuple[Path, ...]:
        return (self._named, self._out, self._errors, self._shards.folder)

    def check(self, source: str, existing: Existing) -> None:
        try:
            self._check_place()
            if self._out.exists() and not (existing.overwrite or existing.resume):
                raise SinkError(f"{self._out} exists. Give --resume to complete it, or --overwrite")
            if not existing.overwrite and not existing.add_source:
                stored = [sources_of(path, source) for path in self._begin()]
                check_same_source(self.uri, set().union(*stored), source)
        except OSError as error:
            raise SinkError(f"cannot write to {self._out}: {error.strerror}") from error

    def open(
        self, source: str, model: Mapping[str, str], dimension: int, existing: Existing
    ) -> dict[str, StoredRow]:
        self._source, self._existing = source, existing
        self._schema = schema_of(model, dimension)
        try:
            self._out.parent.mkdir(parents=True, exist_ok=True)
            self.check(source, existing)
            if not existing.overwrite:
                for path in self._begin():
                    check_same_model(str(path), described(path), model)
            self._shards.folder.mkdir(exist_ok=True)
            if existing.overwrite:
                self._forget()
            elif self._out.exists() and not self._shards.first.exists():
                self._start_from_out()
        except OSError as error:
            raise SinkError(f"cannot write to {self._shards.folder}: {error.strerror}") from error
        self._shards.unnamed = None if existing.add_source else source
        return self._shards.known(source)

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
            table = table_of(self._rows, self._source, self._schema)
            with self._writing(self._shards.next()) as shard:
                _write(shard, self._schema, iter([table]))
            self._rows = []
        self._flushed = time.monotonic()

    def refresh(self, item: ObjectInfo) -> None:
        self._times[self._source, item.name] = item.mtime_ns

    def remove(self, names: Collection[str]) -> None:
        self._removed.update((self._source, name) for name in names)

    def finish(self) -> dict[str, int]:
        self.flush()
        counts = self._merge(self._schema)
        self._publish()
        self._shards.remove()
        return counts

    def _merge(self, schema: Any) -> Counter[str]:
        """Writes OUT and its errors from the shards, and marks these until both are in place."""
        counts: Counter[str] = Counter()
        merged = self._shards.merged(schema, self._times, self._removed, counts)
        self._shards.merging.touch()
        # Both are written before either is renamed, OUT last.
        with self._writing(self._out) as out, self._writing(self._errors) as errors:
            has_errors = _write(errors, without_vectors(schema), merged.errors())
            _write(out, schema, merged.embedded())
        if not has_errors:
            self._errors.unlink(missing_ok=True)
        self._shards.merging.unlink()
        return counts

    def _publish(self) -> None:
        """Moves OUT and its errors to where they belong, which is here. The shards are still there."""

    def keep(self) -> dict[str, int]:
        self.flush()
        counts = self._shards.counts()
        if not counts:
            self._shards.remove()
        return counts

    def _check_place(self) -> None:
        """That OUT can be written. The folders above it are created when the run begins."""
        folder = next(parent for parent in self._out.absolute().parents if parent.exists())
        if not folder.is_dir():
            raise SinkError(f"cannot write to {self._out}: {folder} is not a folder")
        if not os.access(folder, os.W_OK | os.X_OK, effective_ids=True):
            raise SinkError(f"cannot write to {self._out}: no permission to write in {folder}")
        if self._out.exists() and not os.access(self._out, os.W_OK, effective_ids=True):
            raise SinkError(f"cannot write to {self._out}: no permission to write to it")
        if folder == self._out.absolute().parent:
            self._take_lock()

    def _take_lock(self) -> None:
        if not self._lock.is_held and not self._lock.acquire():
            raise SinkError(f"another run is writing {self.uri}. Wait until it ends, or choose another --out")

    def _begin(self) -> list[Path]:
        """The files whose rows this run continues: the shards, or OUT if none came from it."""
        outs = [] if self._shards.first.exists() else [self._out, self._errors]
        return [*filter(Path.exists, outs), *self._shards.paths()]

    def _start_from_out(self) -> None:
        """Copies OUT to the first shard. OUT itself stays until the new one replaces it."""
        self._shards.first_errors.unlink(missing_ok=True)
        if self._errors.exists():
            _copy(self._errors, self._shards.first_errors)
        _copy(self._out, self._shards.first)

    def _forget(self) -> None:
        """Removes earlier shards. An empty first one keeps the next run from starting with OUT.

        It names the source, so that a run of another one does not go on and leave out the rows of OUT. A
        killed run may have replaced the errors and not OUT: this is completed first, from its shards.
        """
        if self._shards.merging.exists() and (paths := self._shards.paths()):
            with suppress(SinkError):  # whatever keeps it from that, these rows are to be overwritten
                self._merge(pq.read_schema(paths[-1]))
        named = self._schema.with_metadata({**self._schema.metadata, SOURCE_KEY: self._source.encode()})
        with self._writing(self._shards.first) as shard:
            _write(shard, named, iter(()))
        for path in self._shards.paths():
            if path != self._shards.first:
                path.unlink()

    @contextmanager
    def _writing(self, path: Path) -> Iterator[Path]:
        """A temporary path that replaces `path`, with its permissions. Raises SinkError."""
        try:
            with replacing(path) as temporary:
                yield temporary
                with suppress(FileNotFoundError):
                    shutil.copymode(path, temporary)
        except OSError as error:
            raise SinkError(
                f"cannot write {path}: {os.strerror(error.errno) if error.errno else error}. Finished rows "
                f"are kept in {self._shards.folder}. Free some space, then "
                f"{how_to_continue(overwrite=self._existing.overwrite)}"
            ) from error


def _write(path: Path, schema: Any, tables: Iterator[Any]) -> int:
    """Writes a Parquet file and returns its number of rows."""
    rows = 0
    with pq.ParquetWriter(path, schema) as writer:
        for table in tables:
            writer.write_table(table)
            rows += table.num_rows
    return rows


def _copy(path: Path, target: Path) -> None:
    with replacing(target) as temporary:
        shutil.copyfile(path, temporary)


def _refuse_other_than_files(out: Path) -> None:
    """A rename over /dev/null or a pipe would replace it by a file."""
    try:
        with suppress(FileNotFoundError, NotADirectoryError):
            out.stat()
        if out.is_dir():
            raise SinkError(f"{out} is a folder. Give the path of the file to write")
        if out.exists() and not out.is_file():
            raise SinkError(f"{out} is not a regular file. Give the path of the file to write")
    except (OSError, ValueError, RuntimeError) as error:  # also a NUL in the path
        raise SinkError(f"cannot write {str(out)!r}: {getattr(error, 'strerror', None) or error}") from error
