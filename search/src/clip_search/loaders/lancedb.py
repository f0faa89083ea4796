"""LanceDB: a folder, or any address that lancedb.connect() takes. Needs the extra `lancedb`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa

from clip_client.sinks.parquet import METADATA_KEY
from clip_search import defaults
from clip_search.dataset import COLUMNS
from clip_search.errors import LoadError
from clip_search.loaders.base import Records, check_stored_model
from clip_search.vectors import Vectors

_VECTOR = "embedding"
_ERRORS = (OSError, ValueError, RuntimeError)
"""What LanceDB raises, in Python and in Rust."""


class LanceLoader:
    """The table `table` of the LanceDB database at `place`."""

    def __init__(self, place: str, table: str) -> None:
        try:
            import lancedb
        except ImportError as error:
            raise LoadError(
                "LanceDB needs its package. In a clone of clip-triton: pip install './search[lancedb]'"
            ) from error
        self._place, self._name = f"{place}: table {table}", table
        with _translated(f"cannot open the LanceDB database {place}"):
            self._database: Any = lancedb.connect(place)

    def open(self, model: Mapping[str, str], dimension: int, rows: int) -> None:
        del rows
        metadata = {METADATA_KEY: json.dumps(dict(model)).encode()}
        texts = [("id", pa.string()), ("state", pa.string())]
        vector = (_VECTOR, pa.list_(pa.float32(), dimension))
        self._schema = pa.schema([*texts, *COLUMNS.items(), vector], metadata=metadata)
        with _translated(f"cannot open {self._place}"):
            self._table = self._created_or_opened()
        if not {"id", "state", _VECTOR} <= set(self._table.schema.names):
            check_stored_model(self._place, None, model)
        if self._table.schema.field(_VECTOR).type.list_size != dimension:
            raise LoadError(f"{self._place} has vectors of another length than {dimension}")
        stored = (self._table.schema.metadata or {}).get(METADATA_KEY)
        check_stored_model(self._place, None if stored is None else json.loads(stored), model)

    def _created_or_opened(self) -> Any:
        try:
            return self._database.create_table(self._name, schema=self._schema, exist_ok=True)
        except _ERRORS as error:
            # exist_ok compares schemas: another dimension, or a table of another program.
            try:
                return self._database.open_table(self._name)
            except _ERRORS:
                raise error from None

    def stored(self) -> dict[str, str]:
        found = self._select(["id", "state"])
        return dict(zip(found["id"].to_pylist(), found["state"].to_pylist(), strict=True))

    def _select(self, columns: list[str], where: str | None = None) -> Any:
        with _translated(f"cannot read {self._place}"):
            query = self._table.search().select(columns).limit(max(1, self._table.count_rows()))
            return (query.where(where) if where else query).to_arrow()

    def upsert(self, records: Records) -> None:
        columns: dict[str, Any] = {"id": list(records.ids), "state": list(records.states)}
        columns |= {name: records.column(name) for name in COLUMNS}
        flat = pa.array(np.ascontiguousarray(records.vectors).reshape(-1))
        columns[_VECTOR] = pa.FixedSizeListArray.from_arrays(flat, records.vectors.shape[1])
        with _translated(f"cannot write to {self._place}"):
            merge = self._table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
            merge.execute(pa.table(columns, schema=self._schema))

    def delete(self, ids: Sequence[str]) -> None:
        with _translated(f"cannot delete from {self._place}"):
            self._table.delete(f"id IN ({_quoted(ids)})")

    def finish(self) -> None:
        """Below defaults.LANCEDB_INDEX_ROWS rows, LanceDB compares all of them, which is exact and fast."""
        from lancedb.index import HnswSq

        with _translated(f"cannot index {self._place}"):
            indexed = any(_VECTOR in index.columns for index in self._table.list_indices())
            if not indexed and self._table.count_rows() >= defaults.LANCEDB_INDEX_ROWS:
                self._table.create_index(_VECTOR, config=HnswSq(distance_type="cosine"))
            self._table.optimize()

    def vectors(self, ids: Sequence[str]) -> dict[str, Vectors]:
        found = self._select(["id", _VECTOR], f"id IN ({_quoted(ids)})")
        vectors = found[_VECTOR].combine_chunks().flatten().to_numpy().reshape(len(found), -1)
        return dict(zip(found["id"].to_pylist(), vectors, strict=True))

    def close(self) -> None:
        """Nothing is held open."""


def _quoted(ids: Sequence[str]) -> str:
    """UUIDs as SQL strings."""
    return ", ".join(f"'{each}'" for each in ids)


@contextmanager
def _translated(what: str) -> Iterator[None]:
    try:
        yield
    except _ERRORS as error:
        raise LoadError(f"{what}: {' '.join(str(error).split())}") from error
