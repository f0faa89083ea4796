"""Where the output of a job is: the Storage protocol, a local folder, and a bucket.

To add a storage, write a class with Storage's members and register it in STORAGES.
"""

from __future__ import annotations

import errno
import json
import os
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol, TypeVar

import pyarrow as pa

from clip_batch import defaults
from clip_batch.errors import DamagedFile, MissingFile, StorageError
from clip_batch.layout import EMBEDDINGS, ERRORS, ShardName

if TYPE_CHECKING:
    from clip_client.bucket import Bucket

_Parsed = TypeVar("_Parsed")
Write = Callable[[IO[bytes]], None]
"""Writes a file's content into a binary file, from its begin to its end."""
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)
"""Raised by file systems without hard links, such as some cluster mounts."""


@dataclass(frozen=True)
class StoredFile:
    """A file by its name relative to the storage, and its size in bytes."""

    name: str
    size: int


class Storage(Protocol):
    """Files by name, such as "embeddings/000001-0000000.parquet". Safe to use from several threads.

    A file is complete or absent, and is never changed. Every method raises StorageError if the storage
    cannot be used.
    """

    @property
    def uri(self) -> str:
        """What open_storage() opens."""

    @property
    def local_path(self) -> Path | None:
        """The folder, for a local storage; None for others."""

    def check(self) -> None:
        """Raises StorageError if nothing can be written. Fast: it comes before everything else."""

    def list(self, folder: str) -> Iterator[StoredFile]:
        """The complete files in a folder and below it, ordered by name; none if it does not exist."""

    def open(self, name: str) -> Any:
        """The file for random access, as pyarrow reads it; close it. Raises FileNotFoundError."""

    def read(self, name: str) -> bytes:
        """The whole file. Raises FileNotFoundError."""

    def write_if_absent(self, name: str, write: Write) -> bool:
        """Stores what `write` writes, whole or not at all, and durably.

        Returns False, and keeps the older file, if there is one, even if it came while `write` wrote. An
        exception of `write` is passed on, and nothing is stored.
        """

    def move(self, source: str, target: str) -> None:
        """Gives a file another name; does nothing if it is not there, as after an earlier move."""

    def delete(self, name: str) -> None:
        """Does nothing if the file does not exist."""

    def clean(self) -> None:
        """Removes what killed processes have left behind."""


def open_storage(uri: str) -> Storage:
    """The storage that `uri` names: a local folder by its path, or gs://bucket/folder/. Writes nothing yet.

    Raises StorageError for an unknown scheme, a missing bucket name or missing credentials.
    """
    scheme, separator, _ = uri.partition("://")
    opener = STORAGES.get(scheme if separator else "")
    if opener is None:
        supported = ", ".join(f"{name}://" for name in STORAGES if name)
        raise StorageError(
            f"cannot write to {uri}: {scheme}:// is not supported. Give "
            + " or ".join(filter(None, [supported, "the path of a local folder"]))
        )
    return opener(uri)


class LocalStorage:
    """A folder, which is created by the first file. On a network file system, several machines may use it."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.uri = str(root)
        self.local_path: Path | None = root

    def check(self) -> None:
        with self._failing("write to", ""):
            parents = (self._root, *self._root.absolute().parents)
            folder = next(parent for parent in parents if parent.exists())
        if not folder.is_dir():
            raise StorageError(f"cannot write to {self._root}: {folder} is not a folder")
        if not os.access(folder, os.W_OK | os.X_OK, effective_ids=True):
            raise StorageError(f"cannot write to {self._root}: no permission to write in {folder}")

    def list(self, folder: str) -> Iterator[StoredFile]:
        with self._failing("list", folder):
            yield from sorted(self._files(self._root / folder), key=lambda file: file.name)

    def _files(self, folder: Path) -> Iterator[StoredFile]:
        try:
            entries = list(os.scandir(folder))
        except (FileNotFoundError, NotADirectoryError):
            return
        for entry in entries:
            if entry.name.startswith("."):
                continue
            path = Path(entry.path)
            if entry.is_dir():
                yield from self._files(path)
                continue
            with suppress(FileNotFoundError):  # deleted since
                yield StoredFile(path.relative_to(self._root).as_posix(), entry.stat().st_size)

    def open(self, name: str) -> Any:
        with self._failing("read", name):
            return pa.OSFile(str(self._root / name))

    def read(self, name: str) -> bytes:
        with self._failing("read", name):
            return (self._root / name).read_bytes()

    def write_if_absent(self, name: str, write: Write) -> bool:
        path = self._root / name
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
        with self._failing("write", name):
            self._make(path.parent)
            if path.exists():
                return False
            try:
                with temporary.open("xb") as file:
                    write(file)
                    file.flush()
                    os.fsync(file.fileno())
                return _published(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)

    def move(self, source: str, target: str) -> None:
        with self._failing("write", target), suppress(FileNotFoundError):
            self._make((self._root / target).parent)
            os.replace(self._root / source, self._root / target)
            _sync(self._root / target)

    def delete(self, name: str) -> None:
        with self._failing("delete", name):
            (self._root / name).unlink(missing_ok=True)

    def clean(self) -> None:
        with self._failing("clean", ""):
            for path in self._root.rglob(".*.tmp"):
                with suppress(FileNotFoundError):
                    if time.time() - path.stat().st_mtime > defaults.LEFTOVER_S:
                        path.unlink()

    def _make(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except FileNotFoundError as error:  # /proc says so
            raise StorageError(f"cannot write to {self._root}: {folder} cannot be created") from error

    @contextmanager
    def _failing(self, verb: str, name: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else error
            advice = ". Free some space, then run the command again" if error.errno == errno.ENOSPC else ""
            raise StorageError(f"cannot {verb} {self._root / name}: {reason}{advice}") from error


def _published(temporary: Path, path: Path) -> bool:
    """Gives the file its name if no other has it: a link, unlike a rename, never replaces a file."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if path.exists():
            return False
        os.replace(temporary, path)
    _sync(path)
    return True


def _sync(path: Path) -> None:
    """Makes the name of a new file durable."""
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class BucketStorage:
    """The objects under a prefix of a bucket. A file is created only if there is none (generation 0)."""

    def __init__(self, bucket: Bucket, prefix: str = "") -> None:
        """The bucket raises StorageError."""
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self.uri = f"gs://{bucket.name}/{self._prefix}".rstrip("/")
        self.local_path: Path | None = None
        self._bucket = bucket

    def check(self) -> None:
        self._bucket.check()

    def list(self, folder: str) -> Iterator[StoredFile]:
        place = f"{self._prefix}{folder}".strip("/")
        for file in self._bucket.list(f"{place}/" if place else ""):
            yield StoredFile(file.name.removeprefix(self._prefix), file.size)

    def open(self, name: str) -> Any:
        return pa.PythonFile(self._bucket.open(self._prefix + name), mode="r")

    def read(self, name: str) -> bytes:
        return self._bucket.read(self._prefix + name)

    def write_if_absent(self, name: str, write: Write) -> bool:
        if self._bucket.generation(self._prefix + name):
            return False
        with tempfile.TemporaryFile() as file:  # Parquet's footer is known at the end
            try:
                write(file)
                file.flush()
            except OSError as error:
                raise StorageError(f"cannot write to {tempfile.gettempdir()}: {error.strerror}") from error
            return self._bucket.upload(file, self._prefix + name, 0)

    def move(self, source: str, target: str) -> None:
        with suppress(FileNotFoundError):
            self._bucket.copy(self._prefix + source, self._prefix + target)
            self._bucket.delete(self._prefix + source)

    def delete(self, name: str) -> None:
        self._bucket.delete(self._prefix + name)

    def clean(self) -> None:
        """Killed processes leave nothing in a bucket."""


def _local(uri: str) -> Storage:
    if not uri:  # Path("") is the current folder: an unset variable in a script would fill that
        raise StorageError("--out is empty. Give the path of a folder")
    return LocalStorage(Path(uri))


def _gcs(uri: str) -> Storage:
    from clip_client.bucket import Bucket  # Google's libraries take half a second to load

    bucket, _, prefix = uri.removeprefix("gs://").partition("/")
    if not bucket:
        raise StorageError(f"{uri} has no bucket name. Use gs://bucket/folder/")
    return BucketStorage(Bucket(bucket, StorageError), prefix)


STORAGES: dict[str, Callable[[str], Storage]] = {"": _local, "gs": _gcs}
"""Storage by URI scheme; "" is a path. To add one, add its function here."""


@contextmanager
def reading(storage: Storage, name: str) -> Iterator[Any]:
    """A Parquet file. Raises MissingFile, and DamagedFile if its content cannot be read."""
    try:
        with storage.open(name) as file:
            yield file
    except FileNotFoundError as error:
        raise _missing(storage, name) from error
    except (pa.ArrowException, OSError, ValueError) as error:  # OSError: a page that is no page
        raise damaged(storage, name, error) from error


def read_json(storage: Storage, name: str, parse: Callable[[dict[str, Any]], _Parsed]) -> _Parsed:
    """What `parse` makes of a JSON file. It ignores what a later release adds.

    Raises FileNotFoundError, and DamagedFile if the file is not JSON or `parse` does not find what it needs.
    """
    data = storage.read(name)
    try:
        values = json.loads(data)
        if not isinstance(values, dict):
            raise ValueError("it is not a JSON object")
        return parse(values)
    except KeyError as error:
        raise damaged(storage, name, f"it lacks {error}") from error
    except (ValueError, TypeError) as error:
        raise damaged(storage, name, error) from error


def write_json(storage: Storage, name: str, values: Mapping[str, Any]) -> bool:
    """A JSON file, unless there is one already; see write_if_absent()."""
    return storage.write_if_absent(name, content(json.dumps(values, indent=2).encode()))


def content(data: bytes) -> Write:
    """A function that writes `data`."""

    def write(file: IO[bytes]) -> None:
        file.write(data)

    return write


def damaged(storage: Storage, name: str, reason: object) -> DamagedFile:
    """The error of a file, with what to do about it."""
    text = str(reason).strip().partition("\n")[0].rstrip(".")
    shard = ShardName.parse(name)
    is_shard = name.startswith(f"{EMBEDDINGS}/") and shard is not None and shard.partition is not None
    advice = "Delete it, and run again to embed its partition" if is_shard else "Restore it from a copy"
    return DamagedFile(f"{storage.uri}/{name} is damaged: {text}. {advice}")


def _missing(storage: Storage, name: str) -> MissingFile:
    is_row_file = name.startswith((f"{EMBEDDINGS}/", f"{ERRORS}/"))
    advice = (
        "Run the command again, because a compaction may have replaced it; or restore"
        if is_row_file
        else "Restore"
    )
    return MissingFile(f"{storage.uri}/{name} is missing. {advice} it from a copy")
