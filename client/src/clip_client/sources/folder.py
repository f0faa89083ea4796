"""Photos in a local folder."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from clip_client import defaults
from clip_client.errors import ItemError, SourceError
from clip_client.files import chunks_of, open_regular
from clip_client.sources.base import ObjectInfo
from clip_client.sources.file_names import path_of, printable


class FolderSource:
    """Every file below a folder that is not hidden, ordered by path; or the file `only` in it.

    Names are relative to the folder; see file_names.py for names that are not UTF-8.
    """

    def __init__(self, root: Path, excluded: tuple[Path, ...] = (), only: str | None = None) -> None:
        self._root, self._only = root, only
        self.uri = printable(str(root.resolve()))
        self._excluded = frozenset(map(_location, excluded))

    def excluding(self, *paths: Path) -> FolderSource:
        """This folder without the given files, and without everything in the given folders."""
        return FolderSource(self._root, (*self._excluded, *paths), self._only)

    def covers(self, name: str) -> bool:
        return self._only is None or name == printable(self._only)

    def check(self) -> None:
        self._require_folder()
        try:
            with os.scandir(self._root):
                pass
        except OSError as error:
            raise SourceError(f"cannot list {self._root}: {error.strerror}") from error

    def _require_folder(self) -> None:
        if not self._root.is_dir():
            raise SourceError(f"{self._root} is not a folder (for a bucket, use gs://bucket/prefix)")

    def list(self) -> Iterator[ObjectInfo]:
        self._require_folder()
        location = self._root.resolve()
        for path, size, mtime_ns in sorted(self._files()):
            relative = path.relative_to(self._root)
            absolute = location / relative
            if self._excluded.isdisjoint((absolute, *absolute.parents)):
                yield ObjectInfo(printable(relative.as_posix()), size, mtime_ns=mtime_ns)

    def _files(self) -> Iterator[tuple[Path, int, int]]:
        """Paths, sizes and times of the last change.

        Raises SourceError for a folder that cannot be read, because it could hold photos.
        """
        try:
            if self._only is not None:
                path = self._root / self._only
                found = path.stat()
                yield path, found.st_size, found.st_mtime_ns
                return
            for folder, below, names in os.walk(self._root, onerror=_raise):
                below[:] = [name for name in below if not name.startswith(".")]
                for path in (Path(folder, name) for name in names if not name.startswith(".")):
                    with suppress(FileNotFoundError):  # deleted since it was listed, or a broken link
                        found = path.stat()
                        if stat.S_ISREG(found.st_mode):
                            yield path, found.st_size, found.st_mtime_ns
        except OSError as error:
            raise SourceError(f"cannot list {error.filename}: {error.strerror}") from error

    def load(self, item: ObjectInfo) -> bytes:
        try:
            most = max(item.size, defaults.UNPACKED_BYTES)
            with open_regular(self._root / path_of(item.name)) as file:
                data = b"".join(chunks_of(file, most + 1))
        except FileNotFoundError as error:
            raise ItemError("not_found", f"{item.name} was deleted after it was listed") from error
        except OSError as error:
            raise ItemError("load_failed", f"{item.name}: {error.strerror}") from error
        if len(data) > most:
            raise ItemError("load_failed", f"{item.name} grew while it was read")
        return data


def _location(path: Path) -> Path:
    """The absolute path. A link itself is not followed, because its own name is excluded."""
    return path.parent.resolve() / path.name


def _raise(error: OSError) -> None:
    raise error
