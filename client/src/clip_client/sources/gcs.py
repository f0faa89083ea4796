"""Photos in a Google Cloud Storage bucket."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import requests
import urllib3

from clip_client.errors import ItemError, SourceError
from clip_client.sources._google import DEFAULT_RETRY, LOG_IN, DataCorruption, GoogleAuthError, open_client
from clip_client.sources._google import (
    api_exceptions as api,
)
from clip_client.sources.base import (
    ObjectInfo,
    SourceOptions,
    crc32c,
    has_pattern,
    late_error,
    stall_error,
)
from clip_client.sources.deadline import DeadlineExceeded, deadline

_TIMEOUTS = (DeadlineExceeded, requests.Timeout, urllib3.exceptions.TimeoutError)


class GcsSource:
    """Objects under a prefix, each checked against its CRC32C when it is loaded.

    A prefix that is the whole name of an object stands for that object alone. Uses the application default
    credentials; none if STORAGE_EMULATOR_HOST is set, or with `SourceOptions(anonymous=True)`.
    """

    def __init__(self, bucket: str, prefix: str = "", options: SourceOptions | None = None) -> None:
        self._name, self._prefix = bucket, prefix
        self._options = options or SourceOptions()
        self.uri = f"gs://{bucket}"
        self._is_object = False
        self.placeholders = 0
        """Zero-byte objects whose name ends in "/", which consoles create for empty folders; not listed."""
        try:
            self._client = open_client(self._options)
        except GoogleAuthError as error:
            raise SourceError(
                f"no Google credentials for gs://{bucket} ({error}). {LOG_IN}, or give --anonymous for a "
                "public bucket"
            ) from error
        self._bucket = self._client.bucket(bucket, user_project=self._options.user_project)
        self._requests = {
            "timeout": (self._options.stall_timeout_s, self._options.stall_timeout_s),
            "retry": DEFAULT_RETRY.with_timeout(self._options.load_timeout_s),
        }

    def covers(self, name: str) -> bool:
        return name == self._prefix if self._is_object else name.startswith(self._prefix)

    def check(self) -> None:
        if not any(True for page in self._pages(max_results=1) for _ in page) and has_pattern(self._prefix):
            raise SourceError(
                f"gs://{self._name} has no object whose name begins with {self._prefix}. Patterns are not "
                f"expanded: give gs://{self._name}/ with --include 'PATTERN'"
            )

    def list(self) -> Iterator[ObjectInfo]:
        placeholders = 0
        for page in self._pages():
            for blob in page:
                info = ObjectInfo(
                    blob.name, int(blob.size or 0), blob.generation, blob.crc32c, blob.content_encoding
                )
                self._is_object = info.name == self._prefix and info.size > 0 and not info.name.endswith("/")
                if info.name.endswith("/") and not info.size:
                    placeholders += 1
                    self.placeholders = placeholders
                    continue
                yield info
                if self._is_object:  # the shortest name with this prefix is listed first
                    return

    def _pages(self, **options: Any) -> Iterator[Any]:
        with self._listing():
            pages = self._client.list_blobs(
                self._bucket, prefix=self._prefix or None, **self._requests, **options
            ).pages
        while True:
            with self._listing():
                page = next(pages, None)
            if page is None:
                return
            yield page

    @contextmanager
    def _listing(self) -> Iterator[None]:
        """Raises SourceError for everything that can go wrong in the block."""
        where = f"gs://{self._name}"
        late = f"cannot list {where}: no answer within {self._options.load_timeout_s:.0f} s"
        try:
            with deadline(self._options.load_timeout_s):
                yield
        except _TIMEOUTS as error:
            raise SourceError(late) from error
        except api.RetryError as error:
            raise SourceError(f"{late} ({error.cause})") from error
        except api.NotFound as error:
            raise SourceError(f"the bucket {where} does not exist") from error
        except api.Forbidden as error:
            raise SourceError(f"no permission to list {where}: {error.message}") from error
        except (api.Unauthorized, GoogleAuthError) as error:
            raise self._login_error(error) from error
        except api.BadRequest as error:
            if "requester pays" in str(error).lower() or "UserProjectMissing" in str(error):
                text = f"{where} is a requester-pays bucket. Name the project to bill with --user-project"
                raise SourceError(text) from error
            raise SourceError(f"cannot list {where}: {error.message}") from error
        except (api.GoogleAPIError, requests.RequestException) as error:
            raise SourceError(f"cannot list {where}: {error}") from error

    def load(self, item: ObjectInfo) -> bytes:
        name = f"gs://{self._name}/{item.name}"
        try:
            with deadline(self._options.load_timeout_s):
                data = self._download(item)
        except DeadlineExceeded as error:
            raise late_error(name, self._options) from error
        except _TIMEOUTS as error:
            raise stall_error(name, self._options) from error
        except api.RetryError as error:
            raise late_error(name, self._options, error.cause) from error
        except api.NotFound as error:
            raise ItemError(
                "not_found", f"{name} does not exist; perhaps it was deleted after it was listed, or replaced"
            ) from error
        except api.Forbidden as error:
            raise ItemError("forbidden", f"no permission to read {name}") from error
        except (api.Unauthorized, GoogleAuthError) as error:
            raise self._login_error(error) from error
        except DataCorruption as error:
            text = f"{item.name}: the downloaded bytes do not match their CRC32C"
            raise ItemError("checksum_mismatch", text) from error
        except (api.GoogleAPIError, requests.RequestException, urllib3.exceptions.HTTPError) as error:
            raise ItemError("load_failed", f"{name}: {error}") from error
        if item.crc32c is not None and crc32c(data) != item.crc32c:
            text = f"{item.name}: the downloaded bytes do not match the listed CRC32C"
            raise ItemError("checksum_mismatch", text)
        return data

    def _download(self, item: ObjectInfo) -> bytes:
        data: bytes = self._bucket.blob(item.name, generation=item.generation).download_as_bytes(
            # If the listing had a checksum, load() compares with that, which is the stronger check.
            checksum=None if item.crc32c else "crc32c",
            raw_download=item.content_encoding is not None,
            single_shot_download=True,
            **self._requests,
        )
        return data

    def _login_error(self, error: Exception) -> SourceError:
        """Not an ItemError, because every later load would fail in the same way."""
        if self._options.anonymous:
            return SourceError(f"gs://{self._name} is not public: run again without --anonymous")
        cause = error.args[0] if error.args else error
        return SourceError(f"Google rejects the credentials for gs://{self._name} ({cause}). {LOG_IN}")
