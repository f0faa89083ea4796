"""Reads the output of clip-embed, and finds each photo's nearest neighbors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

Vectors = npt.NDArray[np.float32]
_BLOCK = 1024


@dataclass(frozen=True)
class Neighbors:
    """A photo and its nearest others as (name, cosine), nearest first."""

    name: str
    nearest: list[tuple[str, float]]


@dataclass(frozen=True)
class Embeddings:
    """The rows of the Parquet file: `vectors` float32 [len(names), D], and (name, reason) of failures."""

    names: list[str]
    vectors: Vectors
    failures: list[tuple[str, str]]


def read_embeddings(path: Path) -> Embeddings:
    """Raises OSError if `path` cannot be read."""
    table = pq.read_table(path, columns=["name", "embedding", "error_code", "error_text"])
    names: list[str] = table.column("name").to_pylist()
    codes = table.column("error_code").to_pylist()
    texts = table.column("error_text").to_pylist()
    good = [row for row, code in enumerate(codes) if code is None]
    lists = table.column("embedding").combine_chunks()
    vectors = lists.flatten().to_numpy(zero_copy_only=False).reshape(len(names), lists.type.list_size)
    return Embeddings(
        names=[names[row] for row in good],
        vectors=vectors[good],
        failures=[
            (name, f"{code}: {text}")
            for name, code, text in zip(names, codes, texts, strict=True)
            if code is not None
        ],
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
