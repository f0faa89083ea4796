"""What a plan lists: prefixes and folders, and files with names or URIs."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from clip_batch.errors import BatchError
from clip_batch.manifest import PlannedObject
from clip_client import ObjectInfo, SourceOptions, open_source
from clip_client.sources import SOURCES
from clip_client.sources.folder import FolderSource

LIST_SUFFIXES = (".txt", ".csv", ".parquet")
"""Names of files that are taken as lists, and not as a single photo."""
_READ_ROWS = 10_000


@dataclass(frozen=True)
class Listing:
    """Objects to plan, in a stable order. `text` is what the user gave.

    A listing that `is_complete` yields every object of `source` that it `covers`: others are gone.
    """

    text: str
    objects: Callable[[], Iterator[PlannedObject]]
    source: str | None = None
    covers: Callable[[str], bool] = lambda _: False

    @property
    def is_complete(self) -> bool:
        return self.source is not None


def open_listing(
    text: str,
    options: SourceOptions | None = None,
    *,
    out: str | None = None,
    base: str | None = None,
    source_name: str | None = None,
) -> Listing:
    """The listing of a prefix, folder, object, or a list: a local file of LIST_SUFFIXES, or "-" for stdin.

    `base` is the source of names in a list. `out`, a storage's uri, is left out of a source that contains
    it. Rows are recorded with `source_name` instead of a prefix's or folder's own uri. Raises SourceError and
    BatchError.
    """
    is_list = text.lower().endswith(LIST_SUFFIXES) and "://" not in text and not Path(text).is_dir()
    if text == "-" or is_list:
        return Listing(text, lambda: _listed(text, base, source_name))
    source = open_source(text, options)
    source.check()
    if isinstance(source, FolderSource) and out is not None and "://" not in out:
        source = source.excluding(Path(out), Path(out).resolve())
    name = source_name or source.uri
    is_inside = out is not None and out.startswith(f"{source.uri}/")
    outputs = f"{out.removeprefix(source.uri).strip('/')}/" if out is not None and is_inside else None

    def objects() -> Iterator[PlannedObject]:
        for info in source.list():
            if outputs is None or not info.name.startswith(outputs):
                yield PlannedObject(name, source.uri, info)

    return Listing(text, objects, name, source.covers)


def _listed(text: str, base: str | None, source_name: str | None) -> Iterator[PlannedObject]:
    resolve = _Resolver(text, base, source_name)
    with _reading(text):
        for number, row in enumerate(_rows(text), 1):
            yield resolve(row, number)


def _rows(text: str) -> Iterator[Mapping[str, Any]]:
    """The rows of a list, by column name in lowercase; lines have the column uri."""
    if text.lower().endswith(".parquet"):
        yield from _parquet(text)
    elif text.lower().endswith(".csv"):
        with open(text, newline="", encoding="utf-8-sig") as file:
            yield from _csv(file)
    else:
        path = sys.stdin.fileno() if text == "-" else text
        with open(path, encoding="utf-8-sig", closefd=text != "-") as file:
            for line in file:
                if stripped := line.strip(" \t\r\n"):
                    yield {"uri": stripped}


def _parquet(path: str) -> Iterator[Mapping[str, Any]]:
    with pq.ParquetFile(path) as file:
        known = [name for name in file.schema_arrow.names if name.lower() in _COLUMNS]
        for batch in file.iter_batches(_READ_ROWS, columns=known, use_threads=False):
            names = [name.lower() for name in batch.schema.names]
            yield from pa.RecordBatch.from_arrays(batch.columns, names).to_pylist()


def _csv(file: IO[str]) -> Iterator[Mapping[str, Any]]:
    reader = csv.DictReader(
        file, strict=True
    )  # otherwise, a quote that is not closed takes all rows after it
    reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or ()]
    for row in reader:
        if None in row:  # the cells that have no column
            raise csv.Error(
                f"line {reader.line_num} has more cells than the header. Put names with commas in quotes"
            )
        yield row


_COLUMNS = {
    "uri", "name", "bucket", "source", "generation", "size", "crc32c", "contentencoding", "content_encoding",
    "mtime_ns",
}  # fmt: skip
"""Those of a list, of a Cloud Storage inventory report, and of clip-triton's own files."""


class _Resolver:
    """From a row of a list to the object that it names."""

    def __init__(self, text: str, base: str | None, source_name: str | None) -> None:
        self._text, self._source_name = text, source_name
        self._base = open_source(base).uri if base is not None else None

    def __call__(self, row: Mapping[str, Any], number: int) -> PlannedObject:
        uri, name = self._address(row, number)
        self._check_scheme(uri, number)
        try:
            info = ObjectInfo(
                name,
                _number(row.get("size"), "size") or 0,
                _number(row.get("generation"), "generation"),
                row.get("crc32c") or None,
                row.get("contentencoding") or row.get("content_encoding") or None,
                _number(row.get("mtime_ns"), "mtime_ns"),
            )
        except ValueError as error:
            raise BatchError(f"row {number} of {self._text}: {error}") from error
        return PlannedObject(self._source_name or uri, uri, info)

    def _check_scheme(self, uri: str, number: int) -> None:
        """A worker could not open it, and no partition after it would be embedded."""
        scheme, separator, _ = uri.partition("://")
        if separator and scheme not in SOURCES:
            known = ", ".join(f"{name}://" for name in SOURCES if name)
            raise BatchError(
                f"row {number} of {self._text}: {scheme}:// is not supported. Use one of {known}"
            )

    def _address(self, row: Mapping[str, Any], number: int) -> tuple[str, str]:
        """The source's uri and the object's name in it."""
        bucket, source, name = row.get("bucket"), row.get("source"), row.get("name")
        if name and bucket:
            return f"gs://{bucket}", name
        if name and source:
            return source, name
        given = name or row.get("uri")
        if not given:
            columns = ", ".join(map(repr, row))
            raise BatchError(
                f"row {number} of {self._text} names no object. It has the columns {columns}. Give a column "
                "uri, or name with bucket, source or --base"
            )
        scheme, separator, rest = given.partition("://")
        if separator:
            place, _, inner = rest.partition("/")
            if not place or not inner:
                raise BatchError(f"row {number} of {self._text}: {given} names no object in a bucket")
            return f"{scheme}://{place}", inner
        if self._base is None:
            raise BatchError(
                f"row {number} of {self._text}: {given} is not a URI. Give the bucket or folder of the names "
                "with --base"
            )
        return self._base, given.removeprefix(f"{self._base}/")


def _number(value: Any, column: str) -> int | None:
    """Raises ValueError for what is not a number that fits into a manifest."""
    if value in (None, ""):
        return None
    try:
        number = int(value)
    except ValueError:
        number = -1
    if not 0 <= number < 2**63:
        raise ValueError(f"{column} must be a whole number from 0 to 2^63 - 1, not {value!r}")
    return number


@contextmanager
def _reading(text: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BatchError(f"cannot read {text}: {error.strerror or error}") from error
    except (pa.ArrowException, UnicodeDecodeError, csv.Error) as error:
        raise BatchError(f"cannot read {text}: {error}") from error
