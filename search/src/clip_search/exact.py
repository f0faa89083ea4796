"""Exact nearest rows: every query is compared with every row."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from clip_search import defaults
from clip_search.vectors import Vectors


def top_k(vectors: Vectors, queries: Vectors, k: int) -> tuple[npt.NDArray[np.int64], Vectors]:
    """The k rows of `vectors` [N, D] with the largest dot products with each of `queries` [Q, D].

    Returns their numbers, int64 [Q, min(k, N)], and products, float32 of the same shape, best first; equal
    products in the order of rows. BLAS multiplies with all cores, defaults.BLOCK_ROWS rows at a time.
    """
    k = min(k, len(vectors))
    rows = np.empty((len(queries), 0), np.int64)
    scores = np.empty((len(queries), 0), np.float32)
    for begin in range(0, len(vectors), defaults.BLOCK_ROWS):
        found = queries @ vectors[begin : begin + defaults.BLOCK_ROWS].T
        chosen = _largest(found, k)
        rows = np.concatenate([rows, chosen + begin], axis=1)
        scores = np.concatenate([scores, np.take_along_axis(found, chosen, 1)], axis=1)
        # Merged at once, so that the candidates stay few.
        best = np.lexsort((rows, -scores))[:, :k]
        rows, scores = np.take_along_axis(rows, best, 1), np.take_along_axis(scores, best, 1)
    return rows, scores


def _largest(scores: Vectors, k: int) -> npt.NDArray[np.int64]:
    """The positions of the k largest of each row, in any order; of equal ones at the limit the first."""
    count = scores.shape[1]
    if k >= count:
        return np.broadcast_to(np.arange(count), scores.shape)
    chosen = np.argpartition(scores, count - k, axis=1)[:, count - k :]
    limit = np.take_along_axis(scores, chosen, 1).min(axis=1)
    for query, least in enumerate(limit):
        equal = np.flatnonzero(scores[query] == least)
        above = np.flatnonzero(scores[query] > least)
        chosen[query] = np.concatenate([above, equal[: k - len(above)]])
    return chosen
