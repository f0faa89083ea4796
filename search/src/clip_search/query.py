"""Queries: the vector of a photo, a text or a row, and its nearest rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clip_client import ClipClient
from clip_client.sinks.base import describe_model
from clip_search.dataset import Dataset, Row, difference_of
from clip_search.errors import SearchError
from clip_search.index import Index
from clip_search.vectors import Vectors

Searchable = Dataset | Index


@dataclass(frozen=True)
class Match:
    """A row, its number in the dataset, and its cosine with the query."""

    index: int
    row: Row
    score: float


def find(dataset: Searchable, vector: Vectors, k: int, *, without: Sequence[int] = ()) -> list[Match]:
    """The k rows nearest to `vector`, float32 [D], best first; not the rows with the numbers `without`.

    The rows of an Index are the nearest with its recall.
    """
    if vector.shape != (dataset.dimension,):
        raise SearchError(f"the query has {vector.size} numbers, {dataset.path} has {dataset.dimension}")
    rows, scores = dataset.nearest(np.asarray(vector, np.float32)[None], k + len(without))
    found = [
        (int(index), float(score))
        for index, score in zip(rows[0], scores[0], strict=True)
        if index not in without
    ][:k]
    described = dataset.rows_at([index for index, _ in found])
    return [Match(index, row, score) for (index, score), row in zip(found, described, strict=True)]


def photo_vector(client: ClipClient, dataset: Searchable, photo: Path | bytes) -> Vectors:
    """float32 [D]. Raises SearchError if the server's model is not the dataset's, ItemError for the photo."""
    check_same_model(dataset, describe_model(client.info))
    return np.asarray(client.embed([photo])[0], np.float32)


def text_vector(client: ClipClient, dataset: Searchable, text: str) -> Vectors:
    """float32 [D]. Raises SearchError for another model, ServerMismatch without a text tower."""
    check_same_model(dataset, describe_model(client.info))
    return np.asarray(client.embed_text([text])[0], np.float32)


def check_same_model(dataset: Searchable, model: Mapping[str, str]) -> None:
    """Raises SearchError if queries embedded by `model` cannot be compared with the dataset's rows."""
    if difference := difference_of(dataset.model, model):
        raise SearchError(
            f"the server has another model than {dataset.path}: {difference}. Start a server with the "
            f"dataset's model{_other_name(dataset.model, model)}, or embed the photos again"
        )


def _other_name(of_dataset: Mapping[str, str], of_server: Mapping[str, str]) -> str:
    """The option that chooses the dataset's model on a server of several, if that is another one."""
    name = of_dataset.get("triton_model")
    return f" (--model {name}, if it serves several)" if name and name != of_server["triton_model"] else ""


def row_number(dataset: Searchable, name: str, source: str | None = None) -> int:
    """The number of the row called `name`. Raises SearchError if there is none, or several."""
    found = pc.equal(dataset.table["name"], _scalar(name))
    if source is not None:
        found = pc.and_(found, pc.fill_null(pc.equal(dataset.table["source"], _scalar(source)), False))
    numbers = np.from_dlpack(pc.indices_nonzero(found))
    if not len(numbers):
        place = f"{dataset.path}" if source is None else f"the rows of {source} in {dataset.path}"
        example = dataset.row(0).name
        raise SearchError(f"no embedded row is called {name!r} in {place}. The first is called {example!r}")
    if len(numbers) > 1:
        sources = ", ".join(str(dataset.row(int(number)).source) for number in numbers)
        raise SearchError(f"{len(numbers)} rows are called {name!r}. Choose one with --source: {sources}")
    return int(numbers[0])


def _scalar(text: str) -> Any:
    """An Arrow string. pa.scalar() would import pandas."""
    data = text.encode("utf-8", "surrogatepass")
    offsets = np.array([0, len(data)], np.int32)
    return pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(offsets), pa.py_buffer(data)])[0]
