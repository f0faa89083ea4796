"""Loads the photos of rows from their buckets and folders."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import PurePosixPath
from typing import TypeVar

from clip_client import ItemError, ObjectInfo, Source, SourceOptions, open_source
from clip_client.errors import SourceError
from clip_client.threads import DaemonExecutor
from clip_search import defaults
from clip_search.dataset import Row

T = TypeVar("T")
_OPTIONS = SourceOptions(defaults.LOADS, defaults.LOAD_TIMEOUT_S, defaults.STALL_TIMEOUT_S)


class Photos:
    """The photos of a dataset's rows. `place` replaces the rows' own sources: they may have moved."""

    def __init__(self, place: str | None = None) -> None:
        self._place = place
        self._sources: dict[str, Source] = {}

    def check(self) -> None:
        """Raises SourceError if the place does not exist, once rather than for each photo."""
        if self._place is not None:
            self._sources[self._place] = open_source(self._place, _OPTIONS)

    def load(self, row: Row) -> bytes:
        """The encoded photo. Raises ItemError or SourceError."""
        place = self._place or row.source
        if not place:
            raise SourceError(
                f"the dataset does not say where {row.name} is. Give its bucket or folder: --photos"
            )
        # A dataset from elsewhere must not make a page show any file of this machine.
        if "://" not in place and (row.name.startswith("/") or ".." in PurePosixPath(row.name).parts):
            raise ItemError("not_found", f"{row.name} is outside {place}")
        if place not in self._sources:
            self._sources[place] = open_source(place, _OPTIONS)
        # Without the CRC32C of the stored bytes: the object may be stored compressed.
        return self._sources[place].load(ObjectInfo(row.name, row.size or 0, row.generation))

    def each(self, rows: Iterable[Row], use: Callable[[bytes], T]) -> Iterator[T | str]:
        """Yields use(photo) for each row, in order, or the text of the error if it cannot be loaded."""

        def one(row: Row) -> T | str:
            try:
                return use(self.load(row))
            except (ItemError, SourceError) as error:
                return error.text if isinstance(error, ItemError) else str(error)

        threads = DaemonExecutor(defaults.LOADS, "clip-search")
        try:
            yield from threads.map(one, rows)
        finally:  # Ctrl-C does not wait for a bucket that does not answer
            threads.shutdown(wait=False, cancel_futures=True)
