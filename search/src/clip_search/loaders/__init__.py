"""Loaders: copy a dataset into a vector database or files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from clip_search.errors import LoadError
from clip_search.loaders.base import Loader


def open_loader(uri: str, table: str) -> Loader:
    """The loader that `uri` names, for the table or collection `table`. Nothing is changed yet.

    Raises LoadError for an unknown scheme, a missing package, or a database that cannot be reached.
    """
    scheme, colon, rest = uri.partition(":")
    opener = LOADERS.get(scheme if colon else "")
    if opener is None or not rest.strip("/"):
        raise LoadError(
            f"cannot load into {uri!r}. Give lancedb:FOLDER, postgresql://USER@HOST/DATABASE, "
            "qdrant://HOST:PORT, qdrant:FOLDER or npy:FOLDER"
        )
    return opener(uri, table)


# Each function imports its loader when called, so that only its users need the database's packages.
def _lancedb(uri: str, table: str) -> Loader:
    from clip_search.loaders.lancedb import LanceLoader

    return LanceLoader(uri.partition(":")[2], table)


def _postgres(uri: str, table: str) -> Loader:
    from clip_search.loaders.postgres import PostgresLoader

    return PostgresLoader(uri, table)


def _qdrant(uri: str, table: str) -> Loader:
    from clip_search.loaders.qdrant import QdrantLoader

    return QdrantLoader(uri, table)


def _npy(uri: str, table: str) -> Loader:
    from clip_search.loaders.npy import NpyLoader

    del table
    return NpyLoader(Path(uri.partition(":")[2]))


LOADERS: dict[str, Callable[[str, str], Loader]] = {
    "lancedb": _lancedb,
    "postgresql": _postgres,
    "postgres": _postgres,
    "qdrant": _qdrant,
    "qdrant+https": _qdrant,
    "npy": _npy,
}
"""Loader by URI scheme. To add one, write a class with Loader's methods and add its function here."""
