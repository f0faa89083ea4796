"""Where photos come from: a bucket of Google Cloud Storage, or a folder."""

from __future__ import annotations

import base64
import gzip
import io
import os
import stat
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import google_crc32c
import requests
import urllib3

from clip_client import defaults
from clip_client.errors import ItemError, SourceError
from clip_client.sources._google import (
    DEFAULT_RETRY,
    AnonymousCredentials,
    DataCorruption,
    GoogleAuthError,
    storage,
)
from clip_client.sources._google import (
    api_exceptions as api,
)
from clip_client.sources.file_names import path_of, printable

_GZIP = b"\x1f\x8b"
_LOG_IN = "run `gcloud auth application-default login`"


@dataclass(frozen=True)
class ObjectInfo:
    """One object as it was listed. `crc32c` is base64, as Google Cloud Storage writes it.

    `size` and `crc32c` are of the stored bytes, which `content_encoding` may say are packed.
    """

    name: str
    size: int
    generation: int | None = None
    crc32c: str | None = None
    content_encoding: str | None = None


class Source(Protocol):
    """Anything that can list photos and load one."""

    def list(self) -> Iterator[ObjectInfo]:
        """In a stable order; raises SourceError."""

    def load(self, item: ObjectInfo) -> bytes:
        """The whole object; raises ItemError, or SourceError where no other could be loaded either."""


def open_source(uri: str, connections: int) -> Source:
    """`gs://bucket/prefix` or a folder; `connections` are kept open to the bucket."""
    if not uri.startswith("gs://"):
        return FolderSource(Path(uri))
    bucket, _, prefix = uri.removeprefix("gs://").partition("/")
    if not bucket:
        raise SourceError(f"{uri!r} names no bucket; it should look like gs://bucket/prefix")
    return GcsSource(bucket, prefix, connections)


class GcsSource:
    """Objects under a prefix, each checked against its CRC32C as it is loaded.

    Uses the default credentials, or none where STORAGE_EMULATOR_HOST is set.
    """

    def __init__(self, bucket: str, prefix: str, connections: int) -> None:
        self._name, self._prefix = bucket, prefix
        try:
            self._client = _client(connections)
        except GoogleAuthError as error:
            raise SourceError(f"no Google credentials for gs://{bucket} ({error}): {_LOG_IN}") from error
        self._bucket = self._client.bucket(bucket)

    def list(self) -> Iterator[ObjectInfo]:
        try:
            for blob in self._client.list_blobs(self._name, prefix=self._prefix or None):
                if not blob.name.endswith("/"):  # the console's mark of an empty folder
                    yield ObjectInfo(
                        blob.name, int(blob.size or 0), blob.generation, blob.crc32c, blob.content_encoding
                    )
        except api.NotFound as error:
            raise SourceError(f"the bucket gs://{self._name} does not exist") from error
        except api.Forbidden as error:
            raise SourceError(f"no permission to list gs://{self._name}: {error.message}") from error
        except (api.Unauthorized, GoogleAuthError) as error:
            raise self._logged_out(error) from error
        except (api.GoogleAPIError, requests.RequestException) as error:
            raise SourceError(f"gs://{self._name} cannot be listed: {error}") from error

    def load(self, item: ObjectInfo) -> bytes:
        blob = self._bucket.blob(item.name, generation=item.generation)
        try:
            data: bytes = blob.download_as_bytes(
                # The listed one is compared below, and is the stronger check; once is enough.
                checksum=None if item.crc32c else "crc32c",
                raw_download=item.content_encoding is not None,
                single_shot_download=True,
                retry=DEFAULT_RETRY,
            )
        except api.NotFound as error:
            raise ItemError(
                "not_found", f"gs://{self._name}/{item.name} is gone since it was listed"
            ) from error
        except api.Forbidden as error:
            raise ItemError("forbidden", f"no permission to read gs://{self._name}/{item.name}") from error
        except (api.Unauthorized, GoogleAuthError) as error:
            raise self._logged_out(error) from error
        except DataCorruption as error:
            raise ItemError(
                "checksum_mismatch", f"{item.name}: what arrived does not fit its CRC32C"
            ) from error
        except (api.GoogleAPIError, requests.RequestException, urllib3.exceptions.HTTPError) as error:
            raise ItemError("load_failed", f"gs://{self._name}/{item.name}: {error}") from error
        if item.crc32c is not None and crc32c(data) != item.crc32c:
            raise ItemError("checksum_mismatch", f"{item.name}: what arrived is not what was listed")
        return unpacked(item, data) if item.content_encoding == "gzip" else data

    def _logged_out(self, error: Exception) -> SourceError:
        """Not an ItemError: all that is still to come would fail in the same way."""
        cause = error.args[0] if error.args else error
        return SourceError(f"Google refuses the credentials for gs://{self._name} ({cause}): {_LOG_IN}")


def _client(connections: int) -> Any:
    # Objects are read without a project, and a user's own login has none.
    credentials = AnonymousCredentials() if os.environ.get("STORAGE_EMULATOR_HOST") else None
    client = storage.Client(project=None, credentials=credentials)
    adapter = requests.adapters.HTTPAdapter(pool_connections=connections, pool_maxsize=connections)
    for scheme in ("https://", "http://"):
        client._http.mount(scheme, adapter)
    return client


class FolderSource:
    """Every file below a folder that is not hidden, in order of path; see names.py for other than UTF-8."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._left_out: frozenset[Path] = frozenset()

    def leaving_out(self, *paths: Path) -> FolderSource:
        """This folder without these files, and folders with all in them, wherever they are."""
        other = FolderSource(self._root)
        other._left_out = self._left_out | {_place(path) for path in paths}
        return other

    def list(self) -> Iterator[ObjectInfo]:
        if not self._root.is_dir():
            raise SourceError(f"{self._root} is not a folder (a bucket is written gs://bucket/prefix)")
        place = self._root.resolve()
        for path, size in sorted(self._files()):
            relative = path.relative_to(self._root)
            if self._left_out.isdisjoint(_and_parents(place / relative)):
                yield ObjectInfo(printable(relative.as_posix()), size)

    def _files(self) -> Iterator[tuple[Path, int]]:
        """Paths and sizes; raises SourceError where photos would be missed without a word."""
        try:
            for folder, below, names in os.walk(self._root, onerror=_raise):
                below[:] = [name for name in below if not name.startswith(".")]
                for path in (Path(folder, name) for name in names if not name.startswith(".")):
                    with suppress(FileNotFoundError):  # gone meanwhile, or a link to nowhere
                        found = path.stat()
                        if stat.S_ISREG(found.st_mode):
                            yield path, found.st_size
        except OSError as error:
            raise SourceError(f"{error.filename} cannot be listed: {error.strerror}") from error

    def load(self, item: ObjectInfo) -> bytes:
        try:
            return (self._root / path_of(item.name)).read_bytes()
        except FileNotFoundError as error:
            raise ItemError("not_found", f"{item.name} is gone since it was listed") from error
        except OSError as error:
            raise ItemError("load_failed", f"{item.name}: {error.strerror}") from error


def _place(path: Path) -> Path:
    """Its absolute path; a link is not followed, as what is left out is what bears the name."""
    return path.parent.resolve() / path.name


def _raise(error: OSError) -> None:
    raise error


def _and_parents(path: Path) -> tuple[Path, ...]:
    return (path, *path.parents)


def unpacked(item: ObjectInfo, data: bytes) -> bytes:
    """What was gzipped into `data`; raises ItemError. Bytes that only claim to be gzip stay as they are."""
    if not data.startswith(_GZIP):
        return data
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as packed:
            photo = packed.read(defaults.UNPACKED_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ItemError(
            "load_failed", f"{item.name} is stored as gzip that cannot be read: {error}"
        ) from error
    if len(photo) > defaults.UNPACKED_BYTES:
        text = f"{item.name} is stored as gzip of more than {defaults.UNPACKED_BYTES} bytes"
        raise ItemError("too_many_bytes", text)
    return photo


def crc32c(data: bytes) -> str:
    """base64 of the big-endian checksum, as Google Cloud Storage writes it."""
    return base64.b64encode(google_crc32c.Checksum(data).digest()).decode()
