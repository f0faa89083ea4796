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
from clip_client.sources.base import ObjectInfo, crc32c
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
        """Keeps the names of one folder, and of those above it, in memory."""
        self._require_folder()
        base = os.path.join(self._root, "")
        try:
            for path, found in [self._one()] if self._only is not None else self._files(base):
                if stat.S_ISREG(found.st_mode):
                    name = printable(path[len(base) :])
                    yield ObjectInfo(name, found.st_size, mtime_ns=found.st_mtime_ns)
        except OSError as error:  # also for a folder below: it could hold photos
            raise SourceError(f"cannot list {error.filename}: {error.strerror}") from error

    def _one(self) -> tuple[str, os.stat_result]:
        path = os.path.join(self._root, self._only or "")
        return path, os.stat(path)

    def _files(self, base: str) -> Iterator[tuple[str, os.stat_result]]:
        """What is in the folder and those below it, by path."""
        location = os.path.join(self._root.resolve(), "")
        if not self._excluded.isdisjoint((Path(location), *Path(location).parents)):
            return
        excluded = {str(path) for path in self._excluded}
        above = [_visible(self._root)]
        while above:
            entry = next(above[-1], None)
            if entry is None:
                above.pop()
            elif location + entry.path[len(base) :] in excluded:
                continue
            elif entry.is_dir(follow_symlinks=False):
                above.append(_visible(entry.path))
            else:
                with suppress(FileNotFoundError):  # deleted since it was listed, or a broken link
                    yield entry.path, entry.stat()

    def load(self, item: ObjectInfo) -> bytes:
        try:
            most = max(item.size, defaults.UNPACKED_BYTES)
            with open_regular(self._root / path_of(item.name)) as file:
                data = b"".join(chunks_of(file, most + 1))
        except FileNotFoundError as error:
            raise ItemError(
                "not_found", f"{item.name} does not exist; perhaps it was deleted after it was listed"
            ) from error
        except OSError as error:
            raise ItemError("load_failed", f"{item.name}: {error.strerror}") from error
        except ValueError as error:  # a null character, in a name from a list
            raise ItemError("not_found", f"{item.name!r} is not a file name: {error}") from error
        if len(data) > most:
            raise ItemError("load_failed", f"{item.name} grew while it was read")
        if item.crc32c is not None and crc32c(data) != item.crc32c:
            raise ItemError("checksum_mismatch", f"{item.name}: the file does not match the listed CRC32C")
        return data


def _location(path: Path) -> Path:
    """The absolute path. A link itself is not followed, because its own name is excluded."""
    return path.parent.resolve() / path.name


def _visible(folder: str | Path) -> Iterator[os.DirEntry[str]]:
    """The entries of a folder that are not hidden, by name."""
    with os.scandir(os.fspath(folder)) as entries:
        found = [entry for entry in entries if not entry.name.startswith(".")]
    return iter(sorted(found, key=lambda entry: entry.name))
