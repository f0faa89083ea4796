"""Reads the output of clip-embed, and finds each photo's nearest neighbors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from clip_client.sinks.parquet import errors_path

Vectors = npt.NDArray[np.float32]
_BLOCK = 1024


@dataclass(frozen=True)
class Neighbors:
    """A photo and its nearest others as (name, cosine), nearest first."""

    name: str
    nearest: list[tuple[str, float]]


@dataclass(frozen=True)
class Embeddings:
    """The rows of both files: `vectors` float32 [len(names), D], and (name, reason) of failures."""

    names: list[str]
    vectors: Vectors
    failures: list[tuple[str, str]]


def read_embeddings(path: Path) -> Embeddings:
    """Raises OSError if `path` cannot be read."""
    table = pq.read_table(path, columns=["name", "embedding"])
    column = table.column("embedding").combine_chunks()
    vectors = column.flatten().to_numpy(zero_copy_only=False).reshape(table.num_rows, column.type.list_size)
    errors = errors_path(path)
    failed = pq.read_table(errors).to_pylist() if errors.exists() else []
    return Embeddings(
        names=table.column("name").to_pylist(),
        vectors=vectors,
        failures=[(row["name"], f"{row['error_code']}: {row['error_text']}") for row in failed],
    )


def nearest(names: list[str], vectors: Vectors, count: int = 3) -> list[Neighbors]:
    """For each name the `count` others with the largest cosine; `vectors` is float32 [N, D], normalized."""
    count = min(count, len(names) - 1)
    found = []
    for start in range(0, len(names), _BLOCK):
        cosines = vectors[start : start + _BLOCK] @ vectors.T
        own = np.arange(len(cosines))
        cosines[own, start + own] = -np.inf
        order = np.argsort(-cosines, axis=1)[:, :count]
        for row, others in enumerate(order):
            pairs = [(names[other], float(cosines[row, other])) for other in others]
            found.append(Neighbors(names[start + row], pairs))
    return found


def same_scene(rows: list[Neighbors]) -> int:
    """The number of photos whose nearest neighbor is in the same folder."""
    return sum(
        bool(row.nearest) and row.name.split("/")[0] == row.nearest[0][0].split("/")[0] for row in rows
    )
