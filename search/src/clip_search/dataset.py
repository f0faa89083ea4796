"""Reads embeddings: a Parquet file of clip-embed, or a folder of such files.

A row counts if its vector is there and finite. Rows of failed photos have none, or NaN in files of version
0.1. If several files have a row of the same source and name, the last file's row counts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from clip_client.sinks.parquet import METADATA_KEY
from clip_search import defaults
from clip_search.errors import DatasetError

Vectors = npt.NDArray[np.float32]

COLUMNS = {
    "source": pa.string(),
    "name": pa.string(),
    "generation": pa.int64(),
    "size": pa.int64(),
    "crc32c": pa.string(),
    "width": pa.int32(),
    "height": pa.int32(),
    "format": pa.string(),
}
"""What a Row has. All but `name` may be missing in a file, and are null then."""
_VECTOR = "embedding"


@dataclass(frozen=True)
class Row:
    """One photo, without its vector. None stands for what the dataset does not know."""

    name: str
    source: str | None = None
    generation: int | None = None
    size: int | None = None
    crc32c: str | None = None
    width: int | None = None
    height: int | None = None
    format: str | None = None


@dataclass(frozen=True)
class Dataset:
    """The embedded rows: `vectors` is float32 [N, D], and row i of `table` (COLUMNS) belongs to vector i.

    `model` describes the model and settings behind the vectors, as clip-embed recorded them.
    """

    path: Path
    table: Any
    vectors: Vectors
    model: Mapping[str, str]

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def dimension(self) -> int:
        return int(self.vectors.shape[1])

    def row(self, index: int) -> Row:
        return Row(**self.table.slice(index, 1).to_pylist()[0])

    def rows_at(self, indices: Sequence[int]) -> list[Row]:
        return [Row(**values) for values in self.table.take(pa.array(indices)).to_pylist()]

    def rows(self) -> Iterator[Row]:
        for batch in self.table.to_batches(defaults.READ_ROWS):
            yield from (Row(**values) for values in batch.to_pylist())


def read_dataset(path: Path | str) -> Dataset:
    """Reads a file, or all Parquet files below a folder. Raises DatasetError.

    Peak memory is the vectors' bytes, one batch, and the other columns.
    """
    path = Path(path)
    files = [_open(file) for file in _files(path)]
    files = [file for file in files if len(files) == 1 or _VECTOR in file.schema_arrow.names]
    try:
        model = _common_model(path, files)
        tables = [_metadata(path, file) for file in files]
        table = pa.concat_tables(tables)
        newest = _newest(table) if len(files) > 1 else np.ones(len(table), bool)
        vectors, used = _read_vectors(path, files, newest)
    except (OSError, pa.ArrowException) as error:
        raise DatasetError(f"cannot read {path}: {error}") from error
    return Dataset(path, table.filter(pa.array(used)), vectors, model)


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = [
        file
        for file in sorted(path.rglob("*.parquet"))
        if not any(part.startswith((".", "_")) for part in file.relative_to(path).parts)
    ]
    if not found:
        raise DatasetError(f"{path} has no Parquet files. Give the file or folder that clip-embed wrote")
    return found


def _open(path: Path) -> Any:
    try:
        return pq.ParquetFile(path, buffer_size=defaults.READ_BYTES)
    except FileNotFoundError as error:
        raise DatasetError(f"{path} does not exist. Give the file that clip-embed wrote") from error
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DatasetError(f"cannot read {path}: {error}") from error


def _common_model(path: Path, files: Sequence[Any]) -> Mapping[str, str]:
    """The description that all files share. Raises DatasetError if weights or settings differ."""
    models = []
    for file in files:
        stored = (file.schema_arrow.metadata or {}).get(METADATA_KEY, b"{}")
        models.append(json.loads(stored))
    for model in models[1:]:
        if difference := difference_of(models[0], model):
            raise DatasetError(
                f"{path} mixes embeddings of different models: {difference}. Search one at a time"
            )
    return models[0] if models else {}


def difference_of(
    first: Mapping[str, str], second: Mapping[str, str], settings: Sequence[str] = ()
) -> str | None:
    """What makes vectors of two models incomparable, in words; None if nothing does.

    `settings` are names of the server's settings that must be equal, too, if both are known.
    """
    then, now = first.get("weights_sha256"), second.get("weights_sha256")
    if then and now and then != now:
        return f"{_described(first)} and {_described(second)}"
    for name in settings:
        then, now = first.get(name), second.get(name)
        if then and now and then != now:
            return f"{name} {then} and {now}"
    return None


def _described(model: Mapping[str, str]) -> str:
    return (
        f"{model.get('model', '?')}/{model.get('pretrained', '?')} ({model.get('weights_sha256', '')[:12]})"
    )


def _metadata(path: Path, file: Any) -> Any:
    names = file.schema_arrow.names
    if "name" not in names or _VECTOR not in names:
        raise DatasetError(f"{path} has no columns name and {_VECTOR}: it is not an output of clip-embed")
    table = file.read([name for name in COLUMNS if name in names])
    arrays = [
        table[name].cast(kind) if name in names else pa.nulls(len(table), kind)
        for name, kind in COLUMNS.items()
    ]
    return pa.table(arrays, names=list(COLUMNS))


def _newest(table: Any) -> npt.NDArray[np.bool_]:
    """Whether each row is the last one of its source and name."""
    numbered = table.select(["source", "name"]).append_column("row", pa.array(np.arange(len(table))))
    last = numbered.group_by(["source", "name"]).aggregate([("row", "max")])["row_max"].to_numpy()
    newest = np.zeros(len(table), bool)
    newest[last] = True
    return newest


def _read_vectors(
    path: Path, files: Sequence[Any], newest: npt.NDArray[np.bool_]
) -> tuple[Vectors, npt.NDArray[np.bool_]]:
    """The finite vectors of the rows in `newest`, float32 [N, D], and a mask of the rows they belong to."""
    used = np.zeros(len(newest), bool)
    vectors: Vectors | None = None
    begin = filled = 0
    for file in files:
        # By this thread alone: each of Arrow's own threads would keep memory for itself.
        for batch in file.iter_batches(defaults.READ_ROWS, columns=[_VECTOR], use_threads=False):
            column = batch.column(0)
            kept = np.asarray(column.is_valid())
            found = _matrix(path, column, int(kept.sum()))
            kept[kept] = np.isfinite(found).all(axis=1)
            found = found[kept[np.asarray(column.is_valid())]]
            wanted = newest[begin : begin + len(kept)][kept]
            kept &= newest[begin : begin + len(kept)]
            if vectors is None and len(found):
                # The system provides memory only for the rows that are written.
                vectors = np.empty((len(newest), found.shape[1]), np.float32)
            count = int(wanted.sum())
            if vectors is not None and count:
                if found.shape[1] != vectors.shape[1]:
                    raise DatasetError(
                        f"{path} mixes vectors of {vectors.shape[1]} and {found.shape[1]} numbers"
                    )
                vectors[filled : filled + count] = found if count == len(found) else found[wanted]
            used[begin : begin + len(kept)] = kept
            begin, filled = begin + len(kept), filled + count
    if vectors is None:
        raise DatasetError(f"{path} has no row with an embedding")
    return vectors[:filled], used


def _matrix(path: Path, column: Any, rows: int) -> Vectors:
    """The vectors of the column's `rows` rows that are not null, float32 [rows, D]."""
    values = column.flatten()  # leaves out null rows
    if rows and len(values) % rows:
        raise DatasetError(f"{path} has vectors of different lengths")
    numbers = values.to_numpy(zero_copy_only=False)
    return np.asarray(numbers, np.float32).reshape(rows, len(values) // rows if rows else 0)
