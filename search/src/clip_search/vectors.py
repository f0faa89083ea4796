"""Reads the vectors of Parquet files: on all cores, into one matrix, and without pandas.

pyarrow imports pandas, where it is installed, for most conversions to and from numpy and Python: up to a
second and 50 MB that a search does not need. DLPack is a way around it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from clip_search import defaults
from clip_search.errors import DatasetError

Vectors = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

COLUMN = "embedding"


@dataclass(frozen=True)
class ParquetPart:
    """A file of a dataset, and its footer. It is open only while it is read: there can be thousands."""

    path: Path
    footer: Any
    schema: Any

    @property
    def rows(self) -> int:
        return int(self.footer.num_rows)

    def open(self) -> Any:
        """A pyarrow.parquet.ParquetFile; close it."""
        return pq.ParquetFile(self.path, metadata=self.footer, buffer_size=defaults.READ_BYTES)


def open_part(path: Path) -> ParquetPart:
    """Reads the footer. Raises DatasetError."""
    try:
        with pq.ParquetFile(path, buffer_size=defaults.READ_BYTES) as file:
            return ParquetPart(path, file.metadata, file.schema_arrow)
    except FileNotFoundError as error:
        raise DatasetError(f"{path} does not exist. Give the file that clip-embed wrote") from error
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DatasetError(f"cannot read {path}: {error}") from error


def read_vectors(path: Path, parts: Sequence[ParquetPart], wanted: Mask) -> tuple[Vectors, Mask]:
    """The finite vectors of the rows in `wanted`, float32 [N, D], and a mask of the rows they belong to.

    Peak memory is the vectors' bytes and one batch for each thread. Raises DatasetError for `path`.
    """
    # The system provides memory only for the rows that are written.
    vectors = np.empty((len(wanted), _dimension(path, parts)), np.float32)
    used = wanted.copy()

    def read(group: _RowGroup) -> None:
        for begin, column in group.columns():
            rows = slice(begin, begin + len(column))
            _take(group.part.path, column, vectors[rows], used[rows])

    with ThreadPoolExecutor(defaults.READERS, "clip-search") as threads:
        deque(threads.map(read, _row_groups(parts)), maxlen=0)
    if not used.any():
        raise DatasetError(f"{path} has no row with an embedding")
    return _compacted(vectors, used), used


def vector_blocks(
    path: Path, parts: Sequence[ParquetPart], wanted: Mask, rows: int
) -> Iterator[tuple[npt.NDArray[np.int64], Vectors]]:
    """The numbers and the finite vectors of the rows in `wanted`, in blocks of about `rows`.

    Raises DatasetError for `path`, also without any vector.
    """
    dimension = _dimension(path, parts)
    numbers: list[npt.NDArray[np.int64]] = []
    found: list[Vectors] = []
    has_any = False
    for group in _row_groups(parts):
        for begin, column in group.columns():
            vectors, used = (
                np.empty((len(column), dimension), np.float32),
                wanted[begin : begin + len(column)].copy(),
            )
            _take(group.part.path, column, vectors, used)
            numbers.append(begin + np.flatnonzero(used))
            found.append(vectors[used])
            has_any = has_any or bool(used.any())
            if sum(map(len, numbers)) >= rows:
                yield np.concatenate(numbers), np.concatenate(found)
                numbers, found = [], []
    if not has_any:
        raise DatasetError(f"{path} has no row with an embedding")
    if any(map(len, numbers)):
        yield np.concatenate(numbers), np.concatenate(found)


@dataclass(frozen=True)
class _RowGroup:
    """Number `index` of its part; its first row is number `begin` of the dataset."""

    part: ParquetPart
    index: int
    begin: int

    def columns(self) -> Iterator[tuple[int, Any]]:
        """The number of the first row, and the vectors, of each batch. Raises DatasetError."""
        begin = self.begin
        # A file of its own, as each thread reads elsewhere. Arrow's own threads would split the work by
        # columns, and this is one; each of them would keep memory for itself.
        try:
            with self.part.open() as file:
                for batch in file.iter_batches(
                    defaults.READ_ROWS, row_groups=[self.index], columns=[COLUMN], use_threads=False
                ):
                    yield begin, batch.column(0)
                    begin += len(batch)
        except (OSError, pa.ArrowException) as error:
            raise DatasetError(f"cannot read {self.part.path}: {error}") from error


def _row_groups(parts: Sequence[ParquetPart]) -> Iterator[_RowGroup]:
    begin = 0
    for part in parts:
        for index in range(part.footer.num_row_groups):
            yield _RowGroup(part, index, begin)
            begin += part.footer.row_group(index).num_rows


def _dimension(path: Path, parts: Sequence[ParquetPart]) -> int:
    """The length of the vectors. Raises DatasetError if there are none, or several."""
    found: dict[int, str] = {}
    for part in parts:
        if length := _length(part):
            found.setdefault(length, part.path.name)
    if len(found) > 1:
        raise DatasetError(
            f"{path} mixes vectors of {' and '.join(map(str, found))} numbers, in "
            f"{' and '.join(found.values())}"
        )
    if not found:
        raise DatasetError(f"{path} has no row with an embedding")
    return next(iter(found))


def _length(part: ParquetPart) -> int:
    """By the schema, or of the first vector if that allows any length; 0 without a vector."""
    kind = part.schema.field(COLUMN).type
    if not _is_list_of_numbers(kind):
        raise DatasetError(f"{part.path} has a column {COLUMN} of {kind}, not of lists of numbers")
    if pa.types.is_fixed_size_list(kind):
        return int(kind.list_size) if part.rows else 0
    for group in _row_groups([part]):
        for _, column in group.columns():
            if rows := len(column) - column.null_count:
                return int(_matrix(part.path, column, rows).shape[1])
    return 0


def _is_list_of_numbers(kind: Any) -> bool:
    types = pa.types
    is_list = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    return bool(is_list and (types.is_floating(kind.value_type) or types.is_integer(kind.value_type)))


def _take(path: Path, column: Any, vectors: Vectors, used: Mask) -> None:
    """Copies the column's vectors to the rows that are `used`, and clears those without a finite vector."""
    present = np.from_dlpack(column.is_valid().cast(pa.uint8())).view(np.bool_)
    found = _matrix(path, column, int(present.sum()))
    if len(found) and found.shape[1] != vectors.shape[1]:
        raise DatasetError(f"{path} mixes vectors of {vectors.shape[1]} and {found.shape[1]} numbers")
    good = present.copy()
    good[present] = np.isfinite(found).all(axis=1)
    used &= good
    if used.all():
        vectors[:] = found
    elif used.any():
        vectors[used] = found[used[present]]


def _matrix(path: Path, column: Any, rows: int) -> Vectors:
    """The vectors of the column's `rows` rows that are not null, float32 [rows, D]."""
    values = column.flatten()  # leaves out null rows
    if not pa.types.is_fixed_size_list(column.type):
        lengths = np.from_dlpack(column.value_lengths().drop_null())
        if len(lengths) and lengths.min() != lengths.max():
            raise DatasetError(f"{path} has vectors of different lengths")
    if values.null_count:
        values = values.fill_null(float("nan"))
    numbers = np.from_dlpack(values.cast(pa.float32(), safe=False))
    return numbers.reshape(rows, len(values) // rows if rows else 0)


def _compacted(vectors: Vectors, used: Mask) -> Vectors:
    """The rows that are used, moved to the front of the same memory."""
    if used.all():
        return vectors
    filled = 0
    for begin in range(0, len(used), defaults.READ_ROWS):
        kept = vectors[begin : begin + defaults.READ_ROWS][used[begin : begin + defaults.READ_ROWS]]
        vectors[filled : filled + len(kept)] = kept
        filled += len(kept)
    return vectors[:filled]
