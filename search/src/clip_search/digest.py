"""Knows a dataset again: the paths, sizes and SHA-256 of its files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_READ = 1024 * 1024


@dataclass(frozen=True)
class FileDigest:
    """A file of a dataset; `name` is its path below the dataset's folder, "" for a dataset of one file."""

    name: str
    size: int
    mtime_ns: int
    sha256: str


@dataclass(frozen=True)
class DatasetDigest:
    files: Sequence[FileDigest]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> DatasetDigest:
        return DatasetDigest([FileDigest(**file) for file in values["files"]])

    def difference(self, dataset: Path, files: Sequence[Path]) -> str | None:
        """What has changed, in words; None if nothing has.

        A file of the same size and time of modification counts as unchanged; otherwise it is hashed.
        Raises OSError.
        """
        known = {file.name: file for file in self.files}
        now = {_name(dataset, file): file for file in files}
        if missing := [name for name in known if name not in now]:
            return f"{missing[0]} is gone"
        for name, path in now.items():
            if name not in known:
                return f"{name} is new"
            stat = path.stat()
            if stat.st_size != known[name].size:
                return f"{path} has changed"
            if stat.st_mtime_ns != known[name].mtime_ns and _sha256(path) != known[name].sha256:
                return f"{path} has changed"
        return None


def digest_of(dataset: Path, files: Sequence[Path]) -> DatasetDigest:
    """Hashes the files: about a second for each gigabyte. Raises OSError."""
    found = []
    for path in files:
        before = path.stat()
        found.append(FileDigest(_name(dataset, path), before.st_size, before.st_mtime_ns, _sha256(path)))
    return DatasetDigest(found)


def _name(dataset: Path, file: Path) -> str:
    return file.relative_to(dataset).as_posix() if file != dataset else ""


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while block := file.read(_READ):
            digest.update(block)
    return digest.hexdigest()
