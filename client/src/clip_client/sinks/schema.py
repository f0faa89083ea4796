"""The columns of the Parquet output, and the conversion of rows into them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from clip_client.results import Embedding, PhotoResult
from clip_client.sinks.base import EmbeddedObject

if TYPE_CHECKING:
    import pyarrow as pa
else:
    try:
        import pyarrow as pa
    except ImportError:  # an optional dependency; ParquetSink says so
        pa = None

METADATA_KEY = b"clip_triton"
SOURCE_KEY = b"clip_triton_source"
"""In the empty first shard of a run that overwrites: the source that it reads."""
VECTOR = "embedding"


def schema_of(model: Mapping[str, str], dimension: int) -> Any:
    """The schema of the output; its error file has the same columns without the vector."""
    return pa.schema(
        [
            ("source", pa.string()),
            ("name", pa.string()),
            ("generation", pa.int64()),
            ("mtime_ns", pa.int64()),
            ("size", pa.int64()),
            ("crc32c", pa.string()),
            (VECTOR, pa.list_(pa.float32(), dimension)),
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


def without_vectors(schema: Any) -> Any:
    return schema.remove(schema.get_field_index(VECTOR))


def table_of(rows: Sequence[EmbeddedObject], source: str, schema: Any) -> Any:
    """The rows as a shard. There, the vector of a failed photo is NaN: shards are merged before use."""
    infos = [row.info for row in rows]
    errors = [row.error for row in rows]
    results = [row.result for row in rows]
    dimension = schema.field(VECTOR).type.list_size
    columns: dict[str, Any] = {
        "source": [source] * len(rows),
        "name": [info.name for info in infos],
        "generation": [info.generation for info in infos],
        "mtime_ns": [info.mtime_ns for info in infos],
        "size": [info.size for info in infos],
        "crc32c": [info.crc32c for info in infos],
        VECTOR: pa.FixedSizeListArray.from_arrays(pa.array(_vectors(rows, dimension).reshape(-1)), dimension),
        "error_code": [error and error.code for error in errors],
        "error_text": [error and error.text for error in errors],
        "width": [result.width for result in results],
        "height": [result.height for result in results],
        "format": [result.format for result in results],
        "decode_scale": [result.decode_scale for result in results],
        "notices": [[notice.code for notice in result.notices] for result in results],
        "notice_text": [_notice_text(result) for result in results],
    }
    return pa.table(columns, schema=schema)


def _notice_text(result: PhotoResult) -> str | None:
    """The notices' texts, a line each; null if there are none."""
    return "\n".join(notice.text for notice in result.notices) or None


def _vectors(rows: Sequence[EmbeddedObject], dimension: int) -> Embedding:
    """float32 [rows, D]; NaN for failed photos."""
    vectors = np.full((len(rows), dimension), np.nan, np.float32)
    for number, row in enumerate(rows):
        if row.vector is not None:
            vectors[number] = row.vector
    return vectors


def has_vector(batch: Any) -> Any:
    """bool [rows]: which rows have a vector. Version 0.1 wrote NaN for the others; error files have none."""
    if VECTOR not in batch.schema.names:
        return np.zeros(batch.num_rows, bool)
    column = batch.column(VECTOR)
    first = column.flatten().to_numpy(zero_copy_only=False)[:: column.type.list_size]
    return ~np.isnan(first)


def conformed(batch: Any, schema: Any, **columns: Sequence[Any]) -> Any:
    """The batch as a table of `schema`: `columns` replace its own, and columns that it lacks are null."""
    arrays = []
    for field in schema:
        if field.name in columns:
            arrays.append(pa.array(columns[field.name], field.type))
        elif field.name in batch.schema.names:
            arrays.append(batch.column(field.name).cast(field.type))
        else:
            arrays.append(pa.nulls(batch.num_rows, field.type))
    return pa.Table.from_arrays(arrays, schema=schema)
