"""Qdrant: a server, or a folder for its client's local mode. Needs the extra `qdrant`.

The server's API key is read from the environment variable QDRANT_API_KEY.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from clip_search import defaults
from clip_search.dataset import COLUMNS
from clip_search.errors import LoadError
from clip_search.loaders.base import Records, check_stored_model
from clip_search.vectors import Vectors

try:
    import qdrant_client
    from qdrant_client import models
except ImportError:  # an optional dependency; the constructor says so
    qdrant_client = models = None

_MADE_BY = "clip_triton"


class QdrantLoader:
    """The collection `table`: cosine, with the row in the payload."""

    def __init__(self, uri: str, table: str) -> None:
        if qdrant_client is None:
            raise LoadError(
                "Qdrant needs its client. In a clone of clip-triton: pip install './search[qdrant]'"
            )
        self._name, self._place = table, f"the Qdrant collection {table} in {uri}"
        scheme, _, rest = uri.partition(":")
        with _translated(f"cannot open {uri}"):
            if rest.startswith("//"):
                secure = scheme.endswith("+https")
                key = os.environ.get("QDRANT_API_KEY")
                url = f"{'https' if secure else 'http'}:{rest}"
                self._client = qdrant_client.QdrantClient(url=url, api_key=key, check_compatibility=False)
            else:
                self._client = qdrant_client.QdrantClient(path=rest)

    def open(self, model: Mapping[str, str], dimension: int, rows: int) -> None:
        del rows
        with _translated(f"cannot open {self._place}"):
            if not self._client.collection_exists(self._name):
                size = models.VectorParams(size=dimension, distance=models.Distance.COSINE)
                metadata = {_MADE_BY: dict(model)}
                self._client.create_collection(self._name, vectors_config=size, metadata=metadata)
                return
            config = self._client.get_collection(self._name).config
        check_stored_model(self._place, (config.metadata or {}).get(_MADE_BY), model)
        if config.params.vectors.size != dimension:
            raise LoadError(f"{self._place} has vectors of another length than {dimension}")

    def stored(self) -> dict[str, str]:
        found: dict[str, str] = {}
        offset: Any = None
        with _translated(f"cannot read {self._place}"):
            while True:
                points, offset = self._client.scroll(
                    self._name, limit=defaults.LOAD_ROWS, offset=offset, with_payload=["state"]
                )
                found |= {str(point.id): point.payload["state"] for point in points}
                if offset is None:
                    return found

    def upsert(self, records: Records) -> None:
        payloads = [
            {"state": state, **{name: getattr(row, name) for name in COLUMNS}}
            for state, row in zip(records.states, records.rows, strict=True)
        ]
        batch = models.Batch(ids=list(records.ids), vectors=records.vectors.tolist(), payloads=payloads)
        with _translated(f"cannot write to {self._place}"):
            self._client.upsert(self._name, points=batch, wait=True)

    def delete(self, ids: Sequence[str]) -> None:
        with _translated(f"cannot delete from {self._place}"):
            self._client.delete(self._name, points_selector=models.PointIdsList(points=list(ids)), wait=True)

    def finish(self) -> None:
        """Qdrant indexes by itself."""

    def vectors(self, ids: Sequence[str]) -> dict[str, Vectors]:
        with _translated(f"cannot read {self._place}"):
            points = self._client.retrieve(self._name, list(ids), with_payload=False, with_vectors=True)
        return {str(point.id): np.array(point.vector, np.float32) for point in points}

    def close(self) -> None:
        self._client.close()


@contextmanager
def _translated(what: str) -> Iterator[None]:
    """Qdrant's client has no common base of its errors: HTTP, gRPC, validation and file errors pass."""
    try:
        yield
    except Exception as error:
        raise LoadError(f"{what}: {' '.join(str(error).split()) or type(error).__name__}") from error
