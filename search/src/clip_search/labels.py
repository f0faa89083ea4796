"""Zero-shot labels: the labels whose text embeddings are nearest to a photo's.

Each label is put into every prompt template. The normalized mean of their embeddings stands for the label, as
in the CLIP paper. The logit scale turns cosines into probabilities: by softmax over all labels or, for
a model with a logit bias (SigLIP), by the logistic function of each.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from clip_client.files import replacing
from clip_client.sinks.parquet import METADATA_KEY
from clip_search import defaults
from clip_search.dataset import Dataset
from clip_search.errors import SearchError
from clip_search.vectors import Vectors

Embed = Callable[[Sequence[str]], Vectors]


@dataclass(frozen=True)
class Labeled:
    """The best labels of each row, best first: their numbers, int64 [N, K], and float32 [N, K]."""

    labels: npt.NDArray[np.int64]
    cosines: Vectors
    probabilities: Vectors


def read_lines(path: Path, what: str) -> list[str]:
    """The lines that are neither empty nor a comment (#). Raises SearchError if there are none."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise SearchError(f"cannot read {path}: {error}") from error
    found = list(dict.fromkeys(line for line in lines if line and not line.startswith("#")))
    if not found:
        raise SearchError(f"{path} has no {what}: write one on each line")
    return found


def label_vectors(embed: Embed, labels: Sequence[str], templates: Sequence[str]) -> Vectors:
    """float32 [labels, D], L2-normalized. Each template has {} where the label goes; else SearchError."""
    for template in templates:
        if template.count("{}") != 1:
            raise SearchError(f"the template {template!r} must have {{}} once, where the label goes")
    # Not str.format: a label or template may have other braces.
    prompts = [template.replace("{}", label) for label in labels for template in templates]
    vectors = embed(prompts).reshape(len(labels), len(templates), -1).mean(axis=1)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def assign(vectors: Vectors, labels: Vectors, count: int, scale: float, bias: float | None) -> Labeled:
    """The `count` best labels of each row of `vectors` [N, D]; `labels` is float32 [L, D]."""
    count = min(count, len(labels))
    found: list[tuple[npt.NDArray[np.int64], Vectors, Vectors]] = []
    for begin in range(0, len(vectors), defaults.TILE_ROWS):
        cosines = vectors[begin : begin + defaults.TILE_ROWS] @ labels.T
        probabilities = _probabilities(cosines, scale, bias)
        best = np.argsort(-cosines, axis=1, kind="stable")[:, :count]
        found.append((best, np.take_along_axis(cosines, best, 1), np.take_along_axis(probabilities, best, 1)))
    return Labeled(*(np.concatenate(parts) for parts in zip(*found, strict=True)))


def _probabilities(cosines: Vectors, scale: float, bias: float | None) -> Vectors:
    logits = cosines.astype(np.float64) * scale
    if bias is not None:
        return np.asarray(1 / (1 + np.exp(-(logits + bias))), np.float32)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float32)


def write_labels(path: Path, dataset: Dataset, labels: Sequence[str], found: Labeled) -> None:
    """Writes source, name, generation, label, probability and cosine of the best, and lists of labels.

    The file's metadata is the dataset's. Raises SearchError.
    """
    names = np.asarray(labels, object)[found.labels]
    table = dataset.table.select(["source", "name", "generation"])
    for name, values in {
        "label": pa.array(names[:, 0], pa.string()),
        "probability": pa.array(found.probabilities[:, 0]),
        "cosine": pa.array(found.cosines[:, 0]),
        "labels": pa.array(names.tolist(), pa.list_(pa.string())),
        "probabilities": pa.array(found.probabilities.tolist(), pa.list_(pa.float32())),
    }.items():
        table = table.append_column(name, values)
    table = table.replace_schema_metadata({METADATA_KEY: json.dumps(dict(dataset.model))})
    try:
        with replacing(path) as temporary:
            pq.write_table(table, temporary)
    except OSError as error:
        raise SearchError(f"cannot write {path}: {error.strerror}") from error
