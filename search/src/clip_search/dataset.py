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

from clip_client.sinks.parquet import METADATA_KEY
from clip_search import defaults, exact
from clip_search.errors import DatasetError
from clip_search.vectors import COLUMN, Mask, ParquetPart, Vectors, open_part, read_vectors, vector_blocks

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
class Rows:
    """The embedded rows of a dataset, with COLUMNS in `table`.

    `model` describes the model and settings behind the vectors, as clip-embed recorded them.
    """

    path: Path
    table: Any
    model: Mapping[str, str]

    def __len__(self) -> int:
        return len(self.table)

    def row(self, index: int) -> Row:
        return Row(**self.table.slice(index, 1).to_pylist()[0])

    def rows_at(self, indices: Sequence[int]) -> list[Row]:
        numbers = np.array(indices, np.int64)  # pa.array() would import pandas
        taken = pa.Array.from_buffers(pa.int64(), len(numbers), [None, pa.py_buffer(numbers)])
        return [Row(**values) for values in self.table.take(taken).to_pylist()]

    def rows(self) -> Iterator[Row]:
        for batch in self.table.to_batches(defaults.READ_ROWS):
            yield from (Row(**values) for values in batch.to_pylist())


@dataclass(frozen=True)
class Dataset(Rows):
    """Rows with their vectors in memory: float32 [N, D], of which vector i belongs to row i."""

    vectors: Vectors

    @property
    def dimension(self) -> int:
        return int(self.vectors.shape[1])

    def nearest(self, queries: Vectors, k: int) -> tuple[npt.NDArray[np.int64], Vectors]:
        return exact.top_k(self.vectors, queries, k)

    def vector(self, index: int) -> Vectors:
        return np.asarray(self.vectors[index])


@dataclass(frozen=True)
class OpenDataset:
    """All rows of the files, with what is needed to read their vectors. `newest` rows count."""

    path: Path
    parts: Sequence[ParquetPart]
    table: Any
    newest: Mask
    model: Mapping[str, str]

    def blocks(self, rows: int) -> Iterator[tuple[npt.NDArray[np.int64], Vectors]]:
        """The numbers and the vectors of the newest rows, about `rows` at a time. Raises DatasetError."""
        yield from vector_blocks(self.path, self.parts, self.newest, rows)


def open_dataset(path: Path | str) -> OpenDataset:
    """Reads everything but the vectors of a file, or of all Parquet files below a folder.

    Raises DatasetError.
    """
    path = Path(path)
    parts = [open_part(file) for file in files_of(path)]
    parts = [part for part in parts if len(parts) == 1 or COLUMN in part.schema.names]
    if not parts:
        raise DatasetError(f"{path} has no row with an embedding: its files are those of failed photos")
    model = _common_model(path, parts)
    table = pa.concat_tables([_metadata(part) for part in parts])
    if not len(table):
        raise DatasetError(f"{path} has no row with an embedding")
    newest = _newest(table) if len(parts) > 1 else np.ones(len(table), bool)
    return OpenDataset(path, parts, table, newest, model)


def read_dataset(path: Path | str) -> Dataset:
    """Reads a file, or all Parquet files below a folder. Raises DatasetError.

    Peak memory is the vectors' bytes, a few batches, and the other columns.
    """
    opened = open_dataset(path)
    vectors, used = read_vectors(opened.path, opened.parts, opened.newest)
    table = opened.table if used.all() else opened.table.filter(pa.array(used))
    return Dataset(opened.path, table, opened.model, vectors)


def files_of(path: Path) -> list[Path]:
    """The file, or the Parquet files below the folder, by path. Raises DatasetError if there are none."""
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


def _common_model(path: Path, parts: Sequence[ParquetPart]) -> Mapping[str, str]:
    """The description that all files share. Raises DatasetError if weights or settings differ."""
    first, *others = parts
    model = _model_of(first)
    for part in others:
        if difference := difference_of(model, _model_of(part)):
            raise DatasetError(
                f"{path} mixes embeddings of different models: {difference}, in {first.path.name} and "
                f"{part.path.name}. Search one at a time"
            )
    return model


def _model_of(part: ParquetPart) -> Mapping[str, str]:
    """What clip-embed recorded; empty in files of other programs."""
    stored = (part.schema.metadata or {}).get(METADATA_KEY, b"{}")
    try:
        return {name: str(value) for name, value in json.loads(stored).items() if value is not None}
    except (ValueError, AttributeError) as error:
        raise DatasetError(
            f"{part.path} is damaged: its metadata {METADATA_KEY.decode()!r} is not a JSON object. Embed the "
            "photos again"
        ) from error


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


def _metadata(part: ParquetPart) -> Any:
    """COLUMNS of all rows. Raises DatasetError."""
    names = part.schema.names
    if "name" not in names or COLUMN not in names:
        raise DatasetError(f"{part.path} has no columns name and {COLUMN}: it is not an output of clip-embed")
    try:
        with part.open() as file:
            read = file.read([name for name in COLUMNS if name in names])
        arrays = [
            read[name].cast(kind) if name in names else pa.nulls(len(read), kind)
            for name, kind in COLUMNS.items()
        ]
        table = pa.table(arrays, names=list(COLUMNS))
        table.validate(full=True)  # texts of other programs may not be UTF-8
    except (OSError, pa.ArrowException) as error:
        raise DatasetError(f"cannot read {part.path}: {error}") from error
    if table["name"].null_count:
        raise DatasetError(f"{part.path} has rows without a name: it is not an output of clip-embed")
    return table


def _newest(table: Any) -> npt.NDArray[np.bool_]:
    """Whether each row is the last one of its source and name."""
    numbered = table.select(["source", "name"]).append_column("row", pa.array(np.arange(len(table))))
    last = numbered.group_by(["source", "name"]).aggregate([("row", "max")])["row_max"].to_numpy()
    newest = np.zeros(len(table), bool)
    newest[last] = True
    return newest
