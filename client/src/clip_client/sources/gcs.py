"""Photos in a Google Cloud Storage bucket."""

from __future__ import annotations

import gzip
import io
import os
import zlib
from collections.abc import Iterator
from typing import Any

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
from clip_client.sources.base import ObjectInfo, crc32c

_GZIP = b"\x1f\x8b"
_LOG_IN = "Run `gcloud auth application-default login`"


class GcsSource:
    """Objects under a prefix, each checked against its CRC32C when it is loaded.

    Uses the application default credentials, or none if STORAGE_EMULATOR_HOST is set.
    """

    def __init__(self, bucket: str, prefix: str, connections: int) -> None:
        self._name, self._prefix = bucket, prefix
        self.uri = f"gs://{bucket}"
        try:
            self._client = _client(connections)
        except GoogleAuthError as error:
            raise SourceError(f"no Google credentials for gs://{bucket} ({error}). {_LOG_IN}") from error
        self._bucket = self._client.bucket(bucket)

    def covers(self, name: str) -> bool:
        return name.startswith(self._prefix)

    def list(self) -> Iterator[ObjectInfo]:
        try:
            for blob in self._client.list_blobs(self._name, prefix=self._prefix or None):
                if not blob.name.endswith("/"):  # the console's marker of an empty folder
                    yield ObjectInfo(
                        blob.name, int(blob.size or 0), blob.generation, blob.crc32c, blob.content_encoding
                    )
        except api.NotFound as error:
            raise SourceError(f"the bucket gs://{self._name} does not exist") from error
        except api.Forbidden as error:
            raise SourceError(f"no permission to list gs://{self._name}: {error.message}") from error
        except (api.Unauthorized, GoogleAuthError) as error:
            raise self._login_error(error) from error
        except (api.GoogleAPIError, requests.RequestException) as error:
            raise SourceError(f"cannot list gs://{self._name}: {error}") from error

    def load(self, item: ObjectInfo) -> bytes:
        blob = self._bucket.blob(item.name, generation=item.generation)
        try:
            data: bytes = blob.download_as_bytes(
                # If the listing had a checksum, the comparison below is the stronger check.
                checksum=None if item.crc32c else "crc32c",
                raw_download=item.content_encoding is not None,
                single_shot_download=True,
                retry=DEFAULT_RETRY,
            )
        except api.NotFound as error:
            text = f"gs://{self._name}/{item.name} was deleted after it was listed"
            raise ItemError("not_found", text) from error
        except api.Forbidden as error:
            raise ItemError("forbidden", f"no permission to read gs://{self._name}/{item.name}") from error
        except (api.Unauthorized, GoogleAuthError) as error:
            raise self._login_error(error) from error
        except DataCorruption as error:
            text = f"{item.name}: the downloaded bytes do not match their CRC32C"
            raise ItemError("checksum_mismatch", text) from error
        except (api.GoogleAPIError, requests.RequestException, urllib3.exceptions.HTTPError) as error:
            raise ItemError("load_failed", f"gs://{self._name}/{item.name}: {error}") from error
        if item.crc32c is not None and crc32c(data) != item.crc32c:
            text = f"{item.name}: the downloaded bytes do not match the listed CRC32C"
            raise ItemError("checksum_mismatch", text)
        return decompressed(item, data) if item.content_encoding == "gzip" else data

    def _login_error(self, error: Exception) -> SourceError:
        """Not an ItemError, because every later load would fail in the same way."""
        cause = error.args[0] if error.args else error
        return SourceError(f"Google rejects the credentials for gs://{self._name} ({cause}). {_LOG_IN}")


def _client(connections: int) -> Any:
    # Reading objects needs no project, and a user's own login has none.
    credentials = AnonymousCredentials() if os.environ.get("STORAGE_EMULATOR_HOST") else None
    client = storage.Client(project=None, credentials=credentials)
    adapter = requests.adapters.HTTPAdapter(pool_connections=connections, pool_maxsize=connections)
    for scheme in ("https://", "http://"):
        client._http.mount(scheme, adapter)
    return client


def decompressed(item: ObjectInfo, data: bytes) -> bytes:
    """The photo in an object that is stored as gzip. Returns bytes that are not gzip as they are.

    Raises ItemError if the gzip data is damaged or unpacks to more than defaults.UNPACKED_BYTES.
    """
    if not data.startswith(_GZIP):
        return data
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            photo = file.read(defaults.UNPACKED_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ItemError("load_failed", f"{item.name} is stored as damaged gzip: {error}") from error
    if len(photo) > defaults.UNPACKED_BYTES:
        text = f"{item.name} is stored as gzip that unpacks to more than {defaults.UNPACKED_BYTES:,} bytes"
        raise ItemError("too_many_bytes", text)
    return photo
