"""Zero-shot labels from given text vectors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from clip_client.requests.wire import Embedding
from clip_search import SearchError, labels, read_dataset
from tests.unit.search.datasets import clusters, units, write


def embed(texts: Sequence[str]) -> Embedding:
    """The direction of a text is that of the animal in it, turned a little by its length."""
    return units([["cat" in text, "dog" in text, 0.01 * len(text), 0] for text in texts])


def test_label_vectors_are_means_over_templates() -> None:
    found = labels.label_vectors(embed, ["cat", "dog"], ["a {}", "a large photo of a {}"])
    expected = embed(["a cat", "a large photo of a cat", "a dog", "a large photo of a dog"])
    np.testing.assert_allclose(found, units(expected.reshape(2, 2, 4).mean(axis=1)), rtol=1e-6)


@pytest.mark.parametrize("template", ["no place", "{} and {}"])
def test_wrong_templates(template: str) -> None:
    with pytest.raises(SearchError, match=r"must have \{\} once"):
        labels.label_vectors(embed, ["cat"], [template])


def test_probabilities_by_softmax_and_by_the_logistic_function() -> None:
    photos = units([[1, 0, 0, 0], [0.2, 1, 0, 0]])
    texts = units([[1, 0, 0, 0], [0, 1, 0, 0]])
    found = labels.assign(photos, texts, 5, 10.0, None)
    assert found.labels.tolist() == [[0, 1], [1, 0]]
    np.testing.assert_allclose(
        found.probabilities[0], [1 / (1 + np.exp(-10)), 1 / (1 + np.exp(10))], rtol=1e-5
    )
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1, rtol=1e-5)
    alone = labels.assign(photos, texts, 1, 10.0, -8.0)
    np.testing.assert_allclose(alone.probabilities[0], [1 / (1 + np.exp(-2))], rtol=1e-5)


def test_a_large_scale_does_not_overflow() -> None:
    found = labels.assign(clusters(10, 8), clusters(3, 8), 3, 1e6, None)
    assert np.isfinite(found.probabilities).all()


def test_the_file(tmp_path: Path) -> None:
    data = read_dataset(write(tmp_path / "e.parquet", ["a", "b"], units([[0, 1, 0], [1, 0, 0]])))
    found = labels.assign(data.vectors, units([[1, 0, 0], [0, 1, 0]]), 2, 100.0, None)
    labels.write_labels(tmp_path / "labels.parquet", data, ["cat", "dog"], found)
    rows = pq.read_table(tmp_path / "labels.parquet").to_pylist()
    assert [(row["source"], row["name"], row["label"], row["labels"]) for row in rows] == [
        ("gs://album", "a", "dog", ["dog", "cat"]),
        ("gs://album", "b", "cat", ["cat", "dog"]),
    ]
    assert rows[0]["probability"] == pytest.approx(1)


def test_lines(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_text("\ufeffcat\n\n# a comment\n dog \ncat\n", encoding="utf-8")
    assert labels.read_lines(path, "labels") == ["cat", "dog"]
    path.write_text("\n")
    with pytest.raises(SearchError, match="has no labels"):
        labels.read_lines(path, "labels")
    with pytest.raises(SearchError, match="cannot read"):
        labels.read_lines(tmp_path / "missing.txt", "labels")
