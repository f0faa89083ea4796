"""The Loader protocol, and the records that a loader stores."""

from __future__ import annotations

import dataclasses
import hashlib
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from clip_client.sinks.base import SETTINGS
from clip_search.dataset import Row, difference_of
from clip_search.errors import LoadError
from clip_search.vectors import Vectors


@dataclass(frozen=True)
class Records:
    """Rows to store: row i has the UUID ids[i], the state states[i] and the vector vectors[i]."""

    ids: Sequence[str]
    states: Sequence[str]
    rows: Sequence[Row]
    vectors: Vectors

    def column(self, name: str) -> list[Any]:
        """A field of Row, of all rows."""
        return [getattr(row, name) for row in self.rows]


class Loader(Protocol):
    """Stores records in one table of a database. One thread uses it. Its methods raise LoadError.

    A run calls open(), stored(), upsert() and delete() for what differs, finish(), stored() and vectors() to
    verify, and always close(). Whatever an interrupted run stored stays, and the next run skips it.
    """

    def open(self, model: Mapping[str, str], dimension: int, rows: int) -> None:
        """Creates the table if it is missing, and records `model` with it. `rows` is the dataset's number.

        Raises LoadError if the table holds vectors of another model or dimension, or is not a loader's.
        """

    def stored(self) -> dict[str, str]:
        """The state of each stored record by its id."""

    def upsert(self, records: Records) -> None:
        """Adds records, or replaces those with the same ids."""

    def delete(self, ids: Sequence[str]) -> None:
        """Removes records."""

    def finish(self) -> None:
        """Makes everything visible, and creates the index if it is missing."""

    def vectors(self, ids: Sequence[str]) -> dict[str, Vectors]:
        """Reads vectors back: float32 [D] by id."""

    def close(self) -> None:
        """Releases connections."""


def id_of(row: Row) -> str:
    """The UUID of a row's source, name and generation. It is the same in every run and database."""
    key = "\0".join((row.source or "", row.name, "" if row.generation is None else str(row.generation)))
    return str(uuid.UUID(bytes=hashlib.sha256(key.encode()).digest()[:16]))


def state_of(row: Row, vector: Vectors) -> str:
    """A hash of everything that is stored for a row: a record with another state is replaced."""
    digest = hashlib.sha256(repr(dataclasses.astuple(row)).encode())
    digest.update(vector.tobytes())
    return digest.hexdigest()[:24]


def check_stored_model(
    place: str,
    stored: Mapping[str, str] | None,
    model: Mapping[str, str],
    other: str = "another name with --table",
) -> None:
    """Raises LoadError unless `place` was made by a loader from the same model and settings.

    `other` says what to choose instead.
    """
    if stored is None:
        raise LoadError(f"{place} exists, and clip-search did not create it. Choose {other}")
    if stored.get("weights_sha256") == model.get("weights_sha256"):
        different = difference_of(stored, model, SETTINGS)
    else:
        different = "their weights differ"
    if different:
        raise LoadError(
            f"{place} holds embeddings of another model ({different}). Choose {other}, or remove it first"
        )
