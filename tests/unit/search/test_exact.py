"""Exact search against sorting all products."""

from __future__ import annotations

import numpy as np
import pytest

from clip_search import defaults, top_k
from tests.unit.search.datasets import clusters


@pytest.mark.parametrize("k", [1, 7, 100, 2000])
def test_equals_a_full_sort(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(defaults, "BLOCK_ROWS", 300)
    vectors = clusters(1000, 16)
    # Products of whole numbers are exact, so that both ways agree to the last bit.
    vectors = np.round(8 * vectors).astype(np.float32)
    rows, scores = top_k(vectors, vectors[:5], k)
    for query in range(5):
        products = vectors @ vectors[query]
        expected = np.argsort(-products, kind="stable")[:k]
        np.testing.assert_array_equal(rows[query], expected)
        np.testing.assert_array_equal(scores[query], products[expected])


def test_equal_products_come_in_the_order_of_rows() -> None:
    vectors = np.ones((50, 4), np.float32)
    rows, _ = top_k(vectors, vectors[:1], 5)
    assert rows.tolist() == [[0, 1, 2, 3, 4]]
