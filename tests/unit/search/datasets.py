"""Parquet files as clip-embed writes them, with vectors of our choice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clip_client.requests.wire import Embedding
from clip_client.sinks.schema import schema_of

MODEL = {"model": "ViT-B-32", "pretrained": "laion2b", "weights_sha256": "a" * 64}


def units(rows: Any) -> Embedding:
    """float32 [N, D], each row of length 1."""
    vectors = np.asarray(rows, np.float32)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def clusters(rows: int, dimension: int, seed: int = 0) -> Embedding:
    """Unit vectors around rows / 10 centers."""
    random = np.random.default_rng(seed)
    centers = random.standard_normal((max(1, rows // 10), dimension), np.float32)
    noise = 0.3 * random.standard_normal((rows, dimension), np.float32)
    return units(centers[random.integers(len(centers), size=rows)] + noise)


def write(
    path: Path, names: Sequence[str], vectors: Embedding, *, model: dict[str, str] = MODEL, **columns: Any
) -> Path:
    """A file of today's layout; `columns` replaces columns, and the others are null."""
    schema = schema_of(model, vectors.shape[1])
    values: dict[str, Any] = {
        "source": ["gs://album"] * len(names),
        "name": list(names),
        "embedding": list(vectors),
        **columns,
    }
    arrays = [pa.array(values.get(field.name, [None] * len(names)), field.type) for field in schema]
    pq.write_table(pa.Table.from_arrays(arrays, schema=schema), path)
    return path


def write_0_1(path: Path, names: Sequence[str], vectors: Embedding) -> Path:
    """A file of version 0.1: no source, and NaN for failed photos."""
    columns = {
        "name": pa.array(names),
        "generation": pa.array([1] * len(names), pa.int64()),
        "size": pa.array([10] * len(names), pa.int64()),
        "crc32c": pa.array(["AAAAAA=="] * len(names)),
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1]),
        "error_code": pa.array([None] * len(names), pa.string()),
        "error_text": pa.array([None] * len(names), pa.string()),
    }
    pq.write_table(pa.table(columns), path)
    return path
