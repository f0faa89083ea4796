"""What a plan lists: prefixes and folders, and files with names or URIs."""

from __future__ import annotations

import base64
import csv
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from clip_batch.errors import BatchError
from clip_batch.manifest import PlannedObject
from clip_client import ObjectInfo, SourceError, SourceOptions, open_source
from clip_client.sources import SOURCES
from clip_client.sources.base import shown
from clip_client.sources.folder import FolderSource

LIST_SUFFIXES = (".txt", ".csv", ".parquet")
"""Names of files that are taken as lists, and not as a single photo."""
_READ_ROWS = 10_000


@dataclass(frozen=True)
class Listing:
    """Objects to plan, in a stable order. `text` is what the user gave, without its login.

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

    is_address = text.startswith(("http://", "https://"))
    return Listing(shown(text) if is_address else text, objects, name, source.covers)


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
            yield from _csv(text, file)
    else:
        path = sys.stdin.fileno() if text == "-" else text
        with open(path, encoding="utf-8-sig", closefd=text != "-") as file:
            for line in file:
                if stripped := line.strip(" \t\r\n"):
                    yield {"uri": stripped}


def _parquet(path: str) -> Iterator[Mapping[str, Any]]:
    with pq.ParquetFile(path) as file:
        _header(path, file.schema_arrow.names)
        known = [name for name in file.schema_arrow.names if name.lower() in _COLUMNS]
        for batch in file.iter_batches(_READ_ROWS, columns=known, use_threads=False):
            names = [name.lower() for name in batch.schema.names]
            yield from pa.RecordBatch.from_arrays(batch.columns, names).to_pylist()


def _csv(path: str, file: IO[str]) -> Iterator[Mapping[str, Any]]:
    # strict: otherwise, a quote that is not closed takes all rows after it
    reader = csv.DictReader(file, strict=True)
    try:
        reader.fieldnames = _header(path, [name.strip() for name in reader.fieldnames or ()])
        for row in reader:
            if None in row:  # the cells that have no column
                raise BatchError(
                    f"cannot read {path}: line {reader.line_num} has more cells than the header. Put names "
                    "with commas in quotes"
                )
            yield row
    except csv.Error as error:
        raise BatchError(
            f"cannot read {path}: the row after line {reader.line_num}: {error}. Is a quote not closed?"
        ) from error


_TEXTS = {"uri", "name", "bucket", "source", "crc32c", "contentencoding", "content_encoding"}
_COLUMNS = _TEXTS | {"generation", "size", "mtime_ns"}
"""Those of a list, of a Cloud Storage inventory report, and of clip-triton's own files."""


def _header(path: str, names: Sequence[str]) -> list[str]:
    """The columns in lowercase. Raises BatchError if none of them names objects, or two are the same."""
    found = [name.lower() for name in names]
    columns = ", ".join(map(repr, names)) or "none"
    if not {"uri", "name"} & {*found}:
        raise BatchError(
            f"{path} names no objects. Its columns: {columns}. Give it a header with a column uri, or name "
            "with bucket, source or --base"
        )
    if repeated := [name for name in _COLUMNS if found.count(name) > 1]:
        raise BatchError(f"{path} has the column {repeated[0]} twice: {columns}. Remove one")
    return found


class _Resolver:
    """From a row of a list to the object that it names."""

    def __init__(self, text: str, base: str | None, source_name: str | None) -> None:
        self._text, self._source_name = text, source_name
        self._base = _Base(base) if base is not None else None
        self._sources: dict[str, str] = {}

    def __call__(self, row: Mapping[str, Any], number: int) -> PlannedObject:
        """Raises BatchError, which names the row."""
        try:
            for column in _TEXTS & row.keys():
                if not isinstance(row[column], str | None):
                    raise ValueError(f"{column} must be text, not {row[column]!r}")
            uri, name = self._address(row)
            if uri not in self._sources:
                self._add(uri)
            info = ObjectInfo(
                name,
                _number(row.get("size"), "size") or 0,
                _number(row.get("generation"), "generation"),
                _checksum(row.get("crc32c")),
                row.get("contentencoding") or row.get("content_encoding") or None,
                _number(row.get("mtime_ns"), "mtime_ns"),
            )
        except (ValueError, SourceError) as error:
            raise BatchError(f"row {number} of {self._text}: {error}") from error
        return PlannedObject(self._source_name or self._sources[uri], self._sources[uri], info)

    def _add(self, uri: str) -> None:
        """Checks a source: a worker could not open it, and no partition after it would be embedded."""
        scheme, separator, _ = uri.partition("://")
        if separator and scheme not in SOURCES:
            known = ", ".join(f"{name}://" for name in SOURCES if name)
            raise ValueError(f"{scheme}:// is not supported. Use one of {known}")
        if "@" in uri and scheme in ("http", "https"):
            raise ValueError("an address must not have a login: the output would record it. Use ~/.netrc")
        self._sources[uri] = uri if separator else open_source(uri).uri
        if self._source_name is not None and len({*self._sources.values()}) > 1:
            places = " and ".join(sorted({*self._sources.values()}))
            raise ValueError(f"--source-name stands for one bucket or folder, and the list has {places}")

    def _address(self, row: Mapping[str, Any]) -> tuple[str, str]:
        """The source's uri and the object's name in it."""
        bucket, source, name = row.get("bucket"), row.get("source"), row.get("name")
        if name and bucket:
            return f"gs://{bucket.removeprefix('gs://').rstrip('/')}", name
        if name and source:
            return source, name
        given: str = name or row.get("uri") or ""
        if not given:
            raise ValueError(f"{' and '.join(sorted({'uri', 'name'} & row.keys()))} must not be empty")
        scheme, separator, rest = given.partition("://")
        if separator:
            place, _, inner = rest.partition("/")
            if not place or not inner:
                raise ValueError(f"{given} names no object in a bucket")
            return f"{scheme}://{place}", inner
        if self._base is None:
            raise ValueError(f"{given} is not a URI. Give the bucket or folder of the names with --base")
        return self._base.uri, self._base.name(given)


class _Base:
    """The bucket or folder of names that are not URIs. Names are relative to it."""

    def __init__(self, given: str) -> None:
        self.uri = open_source(given).uri
        self._given = given.rstrip("/")
        self._is_local = "://" not in given
        prefix = "" if self._is_local else given.removeprefix(self.uri).strip("/")
        self._prefix = f"{prefix}/" if prefix else ""

    def name(self, given: str) -> str:
        """The name in the source. Raises ValueError for a file elsewhere."""
        return self._file(given) if self._is_local else self._prefix + given

    def _file(self, given: str) -> str:
        """The name that a listing of the folder has, so that a file has one row only."""
        inner = given.removeprefix(f"{self.uri}/")
        parts = [part for part in inner.split("/") if part not in ("", ".")]
        if inner.startswith("/") or ".." in parts or not parts:
            raise ValueError(f"{given} is not in the folder {self.uri}, which --base names")
        name = "/".join(parts)
        is_below = given.startswith(f"{self._given}/") and inner == given
        if is_below and os.path.lexists(given) and not os.path.lexists(f"{self.uri}/{name}"):
            raise ValueError(
                f"names must be relative to --base {self._given}, and {given} is relative to the current "
                "folder. Give --base ."
            )
        return name


def _number(value: Any, column: str) -> int | None:
    """Raises ValueError for what is not a number that fits into a manifest."""
    if value in (None, ""):
        return None
    try:
        number = int(value)
    except (ValueError, TypeError, OverflowError):
        number = -1
    if not 0 <= number < 2**63:
        raise ValueError(f"{column} must be a whole number from 0 to 2^63 - 1, not {value!r}")
    return number


def _checksum(value: str | None) -> str | None:
    """Raises ValueError unless it is in base64, as in listings of Cloud Storage."""
    with suppress(ValueError):
        if not value or len(base64.b64decode(value, validate=True)) == 4:
            return value or None
    raise ValueError(f"crc32c must be four bytes in base64, such as AAAAAA==, not {value!r}")


@contextmanager
def _reading(text: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BatchError(f"cannot read {text}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise BatchError(f"cannot read {text}: it is not UTF-8 text ({error.reason})") from error
    except pa.ArrowException as error:
        raise BatchError(f"cannot read {text}: {error}") from error
