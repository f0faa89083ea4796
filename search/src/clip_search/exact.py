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
    best = Best(len(queries), min(k, len(vectors)))
    for begin in range(0, len(vectors), defaults.BLOCK_ROWS):
        best.add(queries @ vectors[begin : begin + defaults.BLOCK_ROWS].T, begin)
    return best.rows, best.scores


class Best:
    """The k largest products of each query so far: their rows, int64 [Q, k], and float32 scores."""

    def __init__(self, queries: int, k: int) -> None:
        self._k = k
        self.rows = np.empty((queries, 0), np.int64)
        self.scores = np.empty((queries, 0), np.float32)

    def add(self, products: Vectors, begin: int) -> None:
        """Takes the products [Q, n] of all queries with the rows from number `begin`."""
        chosen = _largest(products, self._k)
        rows = np.concatenate([self.rows, chosen + begin], axis=1)
        scores = np.concatenate([self.scores, np.take_along_axis(products, chosen, 1)], axis=1)
        # Merged at once, so that the candidates stay few.
        best = np.lexsort((rows, -scores))[:, : self._k]
        self.rows, self.scores = np.take_along_axis(rows, best, 1), np.take_along_axis(scores, best, 1)


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
