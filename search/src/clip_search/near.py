"""Pairs of near rows, in less than quadratic time.

Up to defaults.ALL_PAIRS_ROWS rows, all pairs are compared. Above, rows are compared within cells: about
3 sqrt(N) rows are chosen as centers, each row belongs to the cells of its four nearest centers, and two near
rows have most likely one of them in common. The time grows with N ** 1.5.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from clip_search import defaults
from clip_search.vectors import Vectors

Numbers = npt.NDArray[np.int64]
Progress = Callable[[int, int], None]
"""Gets how many of how many steps are done."""


def near_pairs(
    vectors: Vectors,
    threshold: float,
    rows: Numbers | None = None,
    on_progress: Progress = lambda *_: None,
) -> Numbers:
    """Pairs of `rows` (all) with a product of at least `threshold`: int64 [P, 2], sorted, smaller row first.

    A row is paired with at most about defaults.MAX_NEAR others in one tile, the nearest. Among many equal
    photos, all are still connected.
    """
    rows = np.arange(len(vectors)) if rows is None else rows
    cells = [rows] if len(rows) <= defaults.ALL_PAIRS_ROWS else _cells(vectors, rows)
    total = sum(len(cell) ** 2 for cell in cells)
    done, size = 0, max(1, len(vectors))
    found = [np.empty(0, np.int64)]
    for cell in cells:
        for first, second in _tiles(vectors[cell], threshold):
            pairs = np.stack([cell[first], cell[second]])
            found.append(pairs.min(axis=0) * size + pairs.max(axis=0))
        done += len(cell) ** 2
        on_progress(done, total)
    keys = np.unique(np.concatenate(found))
    return np.stack([keys // size, keys % size], axis=1)


def _cells(vectors: Vectors, rows: Numbers) -> list[Numbers]:
    """The rows of each cell of more than one."""
    count = int(3 * len(rows) ** 0.5)
    # Many nearly equal photos are equally near to each of the centers among them. Without a
    # difference between these, all would be in the same cells, and compared in quadratic time.
    noise = np.random.default_rng(1).random(count + defaults.TILE_ROWS, np.float32) * defaults.TIE
    ties = np.lib.stride_tricks.sliding_window_view(noise, count)
    centers = vectors[np.sort(np.random.default_rng(0).choice(rows, count, replace=False))]
    nearest = np.empty((len(rows), defaults.CELLS), np.int32)
    for begin in range(0, len(rows), defaults.TILE_ROWS):
        products = vectors[rows[begin : begin + defaults.TILE_ROWS]] @ centers.T
        products += ties[: len(products)]
        best = np.argpartition(products, -defaults.CELLS, axis=1)[:, -defaults.CELLS :]
        nearest[begin : begin + len(products)] = best
    order = np.argsort(nearest.reshape(-1), kind="stable")
    ends = np.cumsum(np.bincount(nearest.reshape(-1), minlength=count))
    cells = np.split(rows[order // defaults.CELLS], ends[:-1])
    return [cell for cell in cells if len(cell) > 1]


def _tiles(vectors: Vectors, threshold: float) -> Iterator[tuple[Numbers, Numbers]]:
    """Near pairs of the rows of `vectors`, a tile of products at a time."""
    step = defaults.TILE_ROWS
    for begin in range(0, len(vectors), step):
        for other in range(begin, len(vectors), step):
            products = vectors[begin : begin + step] @ vectors[other : other + step].T
            if begin == other:
                products[np.tril_indices(len(products))] = -2.0
            first, second = np.nonzero(_nearest(products, threshold))
            if len(first):
                yield first + begin, second + other


def _nearest(products: Vectors, threshold: float) -> npt.NDArray[np.bool_]:
    """Which products are at least the threshold and, of each row, among the defaults.MAX_NEAR largest."""
    near = products >= threshold
    for row in np.flatnonzero(near.sum(axis=1) > defaults.MAX_NEAR):
        kept = np.argpartition(products[row], -defaults.MAX_NEAR)[-defaults.MAX_NEAR :]
        near[row] = False
        near[row, kept] = True
    return near
