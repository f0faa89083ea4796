"""Files in a Google Cloud Storage bucket: written whole, and only over the generation that was read.

For outputs; sources/gcs.py reads photos.
"""

from __future__ import annotations

import io
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import requests
import urllib3

from clip_client.sources._google import DEFAULT_RETRY, LOG_IN, GoogleAuthError, open_client
from clip_client.sources._google import api_exceptions as api
from clip_client.sources.base import SourceOptions

_CHUNK_BYTES = 32 * 1024 * 1024
"""Of an upload: each is a request with its own retries."""
_READ_BYTES = 1024 * 1024
_WRITER = "clip-writer"
"""Metadata that says which upload wrote an object, in case that the answer to it was lost."""


@dataclass(frozen=True)
class BucketFile:
    """An object's name, size in bytes and generation."""

    name: str
    size: int
    generation: int


class Bucket:
    """A bucket, by the full names of its objects. Safe to use from several threads.

    Uses the application default credentials; none if STORAGE_EMULATOR_HOST is set. Every request is retried
    for at most SourceOptions.load_timeout_s. Failures are raised as `error`, with a text.
    """

    def __init__(
        self, name: str, error: Callable[[str], Exception], options: SourceOptions | None = None
    ) -> None:
        options = options or SourceOptions()
        self.name, self._error = name, error
        with self._failing("use", ""):
            self._client = open_client(options)
        self._bucket = self._client.bucket(name, user_project=options.user_project)
        self._requests = {
            "timeout": (options.stall_timeout_s, options.stall_timeout_s),
            # Every request below is safe to repeat, those with preconditions too: see _is_own().
            "retry": DEFAULT_RETRY.with_timeout(options.load_timeout_s),
        }

    def check(self) -> None:
        """Raises `error` if the bucket does not exist or is forbidden."""
        next(iter(self.list("", limit=1)), None)

    def list(self, prefix: str, limit: int | None = None) -> Iterator[BucketFile]:
        """The objects whose names begin with `prefix`, ordered by name."""
        with self._failing("list", prefix):
            for blob in self._client.list_blobs(
                self._bucket, prefix=prefix or None, max_results=limit, **self._requests
            ):
                yield BucketFile(blob.name, int(blob.size or 0), int(blob.generation))

    def generation(self, name: str) -> int:
        """0 if there is no such object."""
        return 0 if (blob := self._found(name)) is None else int(blob.generation)

    def read(self, name: str) -> bytes:
        """Raises FileNotFoundError."""
        with self._failing("read", name), self._missing(name):
            data: bytes = self._bucket.blob(name).download_as_bytes(checksum="crc32c", **self._requests)
            return data

    def open(self, name: str) -> IO[bytes]:
        """The object for random access. Raises FileNotFoundError."""
        if (blob := self._found(name)) is None:
            raise FileNotFoundError(self._uri(name))
        return io.BufferedReader(_Ranges(self, blob), _READ_BYTES)

    def download(self, name: str, generation: int, path: Path) -> None:
        """Writes one generation of the object to a local file. Raises FileNotFoundError."""
        with self._failing("read", name), self._missing(name):
            blob = self._bucket.blob(name, generation=generation)
            blob.download_to_filename(str(path), checksum="crc32c", **self._requests)

    def upload(self, file: IO[bytes], name: str, generation: int) -> bool:
        """Writes the object from a file, whole or not at all, if its generation is still this one.

        0 stands for no object. Returns False, and writes nothing, if another writer was faster.
        """
        blob = self._bucket.blob(name, chunk_size=_CHUNK_BYTES)
        blob.metadata = {_WRITER: uuid.uuid4().hex}
        size = file.seek(0, io.SEEK_END)  # without it, small files need several requests as well
        try:
            with self._failing("write", name):
                blob.upload_from_file(
                    file,
                    rewind=True,
                    size=size,
                    content_type="application/octet-stream",
                    checksum="crc32c",
                    if_generation_match=generation,
                    **self._requests,
                )
        except api.PreconditionFailed:
            return self._is_own(blob)
        return True

    def _is_own(self, blob: Any) -> bool:
        """Whether a rejected upload had succeeded before, and was repeated because its answer was lost."""
        found = self._found(blob.name)
        return found is not None and (found.metadata or {}).get(_WRITER) == blob.metadata[_WRITER]

    def copy(self, source: str, target: str) -> None:
        """Replaces `target` within the bucket. Raises FileNotFoundError."""
        with self._failing("write", target), self._missing(source):
            blob, token = self._bucket.blob(target), None
            while True:
                token, _, _ = blob.rewrite(self._bucket.blob(source), token=token, **self._requests)
                if token is None:
                    return

    def delete(self, name: str, generation: int | None = None) -> None:
        """Does nothing if the object does not exist, or is not of this generation."""
        with self._failing("delete", name), suppress(api.NotFound, api.PreconditionFailed):
            self._bucket.blob(name).delete(if_generation_match=generation, **self._requests)

    def _found(self, name: str) -> Any:
        """The object's description, or None."""
        with self._failing("read", name):
            blob = self._bucket.get_blob(name, **self._requests)
        if blob is None:
            self.check()  # a bucket that does not exist has no objects either
        return blob

    def _range(self, blob: Any, begin: int, size: int) -> bytes:
        with self._failing("read", blob.name):
            data: bytes = self._bucket.blob(blob.name, generation=blob.generation).download_as_bytes(
                start=begin, end=begin + size - 1, checksum=None, **self._requests
            )
            return data

    @contextmanager
    def _missing(self, name: str) -> Iterator[None]:
        try:
            yield
        except api.NotFound:
            self.check()
            raise FileNotFoundError(self._uri(name)) from None

    def _uri(self, name: str) -> str:
        return f"gs://{self.name}/{name}" if name else f"gs://{self.name}"

    @contextmanager
    def _failing(self, verb: str, name: str) -> Iterator[None]:
        what = f"cannot {verb} {self._uri(name)}"
        try:
            yield
        except api.PreconditionFailed:
            raise
        except api.NotFound as error:
            gone = "it was deleted" if verb == "read" else f"the bucket gs://{self.name} does not exist"
            raise self._error(f"{what}: {gone}") from error
        except api.Forbidden as error:
            raise self._error(f"{what}: no permission ({error.message})") from error
        except (api.Unauthorized, GoogleAuthError) as error:
            raise self._error(f"{what}: Google rejects the credentials ({error}). {LOG_IN}") from error
        except api.RetryError as error:
            raise self._error(f"{what}: {error.cause or error}. Try again") from error
        except (api.GoogleAPIError, requests.RequestException, urllib3.exceptions.HTTPError) as error:
            raise self._error(f"{what}: {error}") from error


class _Ranges(io.RawIOBase):
    """Random access to one generation of an object, with a request per read."""

    def __init__(self, bucket: Bucket, blob: Any) -> None:
        self._bucket, self._blob = bucket, blob
        self._size, self._position = int(blob.size), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        size = min(len(buffer), self._size - self._position)
        if size <= 0:
            return 0
        data = self._bucket._range(self._blob, self._position, size)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
