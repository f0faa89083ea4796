"""PostgreSQL with the extension pgvector. Needs the extra `postgresql`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from clip_search.errors import LoadError
from clip_search.loaders.base import Records, check_stored_model
from clip_search.vectors import Vectors

try:
    import psycopg
    from psycopg import sql
except ImportError:  # an optional dependency; the constructor says so
    psycopg = sql = None

_COLUMNS = {
    "source": "text", "name": "text NOT NULL", "generation": "bigint", "size": "bigint", "crc32c": "text",
    "width": "integer", "height": "integer", "format": "text",
}  # fmt: skip
_ALL = ("id", "state", *_COLUMNS, "embedding")
_MAX_INDEXED = 2000
"""The most numbers of a vector in an index of pgvector; vectors of half precision have twice as many."""


class PostgresLoader:
    """The table `table`, in the first schema of the user's search path."""

    def __init__(self, uri: str, table: str) -> None:
        if psycopg is None:
            raise LoadError(
                "PostgreSQL needs psycopg. In a clone of clip-triton: pip install './search[postgresql]'"
            )
        self._name = table
        with _translated("cannot connect to PostgreSQL"):
            self._connection = psycopg.connect(uri, autocommit=True)

    def open(self, model: Mapping[str, str], dimension: int, rows: int) -> None:
        del rows
        self._dimension = dimension
        with _translated("cannot create the table"):
            self._run("CREATE EXTENSION IF NOT EXISTS vector")
            if self._run("SELECT to_regclass(%s)", self._table.as_string(self._connection))[0][0] is None:
                self._create(model)
                return
        place = f"the PostgreSQL table {self._name}"
        regclass = self._table.as_string(self._connection)
        comment = self._run("SELECT obj_description(%s::regclass, 'pg_class')", regclass)[0][0]
        check_stored_model(place, _model_in(comment), model)
        found = self._run(
            "SELECT atttypmod FROM pg_attribute WHERE attrelid = %s::regclass AND attname = 'embedding'",
            regclass,
        )
        if found != [(dimension,)]:
            raise LoadError(f"{place} has vectors of another length than {dimension}")

    def _create(self, model: Mapping[str, str]) -> None:
        columns = ", ".join(f"{name} {kind}" for name, kind in _COLUMNS.items())
        definition = (
            f"id uuid PRIMARY KEY, state text NOT NULL, {columns}, embedding vector({self._dimension})"
        )
        with self._connection.transaction():
            self._run(f"CREATE TABLE {{}} ({definition} NOT NULL)")
            comment = sql.Literal(json.dumps({"clip_triton": dict(model)}))
            self._connection.execute(sql.SQL("COMMENT ON TABLE {} IS {}").format(self._table, comment))

    @property
    def _table(self) -> Any:
        return sql.Identifier(self._name)

    def _run(self, query: str, *values: Any) -> list[Any]:
        """Runs `query`, in which {} is the table."""
        cursor = self._connection.execute(sql.SQL(query).format(self._table), values or None)
        return cursor.fetchall() if cursor.description else []

    def stored(self) -> dict[str, str]:
        with _translated("cannot read the table"):
            return dict(self._run("SELECT id::text, state FROM {}"))

    def upsert(self, records: Records) -> None:
        """Copies the records into a temporary table first: COPY is several times faster than INSERT."""
        names = ", ".join(_ALL)
        changes = ", ".join(f"{name} = EXCLUDED.{name}" for name in _ALL[1:])
        with _translated("cannot write"), self._connection.transaction():
            self._run("CREATE TEMP TABLE incoming (LIKE {}) ON COMMIT DROP")
            with self._connection.cursor().copy(f"COPY incoming ({names}) FROM STDIN") as copy:
                columns = [records.column(name) for name in _COLUMNS]
                vectors = [_literal(vector) for vector in records.vectors]
                for values in zip(records.ids, records.states, *columns, vectors, strict=True):
                    copy.write_row(values)
            insert = f"INSERT INTO {{}} ({names}) SELECT {names} FROM incoming"
            self._run(f"{insert} ON CONFLICT (id) DO UPDATE SET {changes}")

    def delete(self, ids: Sequence[str]) -> None:
        with _translated("cannot delete"):
            self._run("DELETE FROM {} WHERE id = ANY(%s::uuid[])", list(ids))

    def finish(self) -> None:
        """An HNSW index by cosine; of half precision above 2,000 numbers, and none above 4,000."""
        column, kind = "embedding", "vector"
        if self._dimension > _MAX_INDEXED:
            column, kind = f"(embedding::halfvec({self._dimension}))", "halfvec"
        if self._dimension > 2 * _MAX_INDEXED:
            return
        index = sql.Identifier(f"{self._name}_embedding")
        query = f"CREATE INDEX IF NOT EXISTS {{}} ON {{}} USING hnsw ({column} {kind}_cosine_ops)"
        with _translated("cannot create the index"):
            self._connection.execute(sql.SQL(query).format(index, self._table))

    def vectors(self, ids: Sequence[str]) -> dict[str, Vectors]:
        with _translated("cannot read the table"):
            rows = self._run(
                "SELECT id::text, embedding::real[] FROM {} WHERE id = ANY(%s::uuid[])", list(ids)
            )
        return {identifier: np.array(vector, np.float32) for identifier, vector in rows}

    def close(self) -> None:
        self._connection.close()


def _literal(vector: Vectors) -> str:
    return "[" + ",".join(map(str, vector.tolist())) + "]"


def _model_in(comment: str | None) -> dict[str, str] | None:
    try:
        found: dict[str, str] = json.loads(comment or "")["clip_triton"]
    except (ValueError, KeyError, TypeError):
        return None
    return found


@contextmanager
def _translated(what: str) -> Iterator[None]:
    try:
        yield
    except psycopg.Error as error:
        raise LoadError(f"{what}: {' '.join(str(error).split())}") from error
