"""Photos in an S3 bucket or an Azure container, read with obstore (the extra `stores`).

These stores have no generations: an object's version or ETag, which change when it is replaced, stand in as
a number; see fingerprint().
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import obstore
from obstore import exceptions as errors
from obstore.store import AzureStore, S3Store

from clip_client import defaults
from clip_client.errors import ItemError, SourceError
from clip_client.sources.base import (
    ObjectInfo,
    SourceOptions,
    fingerprint,
    has_pattern,
    late_error,
    stall_error,
)

_CREDENTIALS = re.compile(
    r"SignatureDoesNotMatch|InvalidAccessKeyId|ExpiredToken|InvalidToken|credentials|"
    r"AuthenticationFailed|failed to authenticate"
)
"""In the errors of all objects, not of one that is forbidden."""
_NO_CONTAINER = re.compile(r"NoSuchBucket|ContainerNotFound|404 Not Found")
_TIMED_OUT = "kind: Timeout"
_ERRORS = (errors.BaseError, OSError, ValueError)
"""ValueError is obstore's, for a key that it cannot express."""
_BUCKET = re.compile(r"[A-Za-z0-9$][A-Za-z0-9._-]*")
_LIST_OBJECTS = 1000


class ObjectStoreSource:
    """Objects under a prefix. A prefix that is the whole name of an object stands for that object alone."""

    def __init__(self, uri: str, prefix: str, store: Any, options: SourceOptions) -> None:
        self.uri = uri
        self._prefix, self._store, self._options = prefix, store, options
        self.placeholders = 0
        """Zero-byte objects whose key ends in "/", which consoles create for empty folders; not listed."""

    def covers(self, name: str) -> bool:
        return name == self._prefix if self._is_object() else name.startswith(self._prefix)

    def check(self) -> None:
        found = next(self.list(), None)
        if found is None and has_pattern(self._prefix):
            raise SourceError(
                f"{self.uri} has no object whose name begins with {self._prefix}. Patterns are not "
                f"expanded: give {self.uri}/ with --include 'PATTERN'"
            )

    def list(self) -> Iterator[ObjectInfo]:
        try:
            if self._is_object():
                yield _info(obstore.head(self._store, self._prefix))
                return
            placeholders = 0
            for meta in self._metas():
                if not meta["size"] and not self._exists(meta["path"]):
                    placeholders += 1  # obstore has dropped the "/" at its end
                    self.placeholders = placeholders
                    continue
                yield _info(meta)
        except _ERRORS as error:
            raise self._listing_error(error) from error

    def _metas(self) -> Iterator[Any]:
        # obstore lists whole folders only: the rest of the prefix is compared here.
        folder, slash, _ = self._prefix.rpartition("/")
        for chunk in obstore.list(self._store, folder + slash or None, chunk_size=_LIST_OBJECTS):
            for meta in chunk:
                if meta["path"].startswith(self._prefix):
                    yield meta

    def _exists(self, name: str) -> bool:
        try:
            obstore.head(self._store, name)
        except FileNotFoundError:
            return False
        return True

    def _is_object(self) -> bool:
        if not self._prefix or self._prefix.endswith("/"):
            return False
        try:
            return int(obstore.head(self._store, self._prefix)["size"]) > 0
        except FileNotFoundError:
            return False
        except _ERRORS as error:
            raise self._listing_error(error) from error

    def load(self, item: ObjectInfo) -> bytes:
        name, begin = f"{self.uri}/{item.name}", time.monotonic()
        try:
            answer = obstore.get(self._store, item.name)
            if item.generation is not None and _info(answer.meta).generation != item.generation:
                raise ItemError("not_found", f"{name} was replaced after it was listed")
            if (size := answer.meta["size"]) > defaults.MAX_PHOTO_BYTES:
                raise ItemError("too_many_bytes", f"{name} has {size:,} bytes")
            data = bytes(answer.bytes())
        except _ERRORS as error:
            raise self._loading_error(name, error, time.monotonic() - begin) from error
        if len(data) != answer.meta["size"]:
            raise ItemError("load_failed", f"{name}: {len(data)} of {answer.meta['size']} bytes came")
        return data

    def _loading_error(self, name: str, error: Exception, took_s: float) -> ItemError | SourceError:
        text = _text(error)
        if isinstance(error, FileNotFoundError):
            return ItemError(
                "not_found", f"{name} does not exist; perhaps it was deleted after it was listed"
            )
        if isinstance(error, errors.UnauthenticatedError) or self._names_credentials(text, name):
            return self._login_error(text)
        if isinstance(error, errors.PermissionDeniedError):
            return ItemError("forbidden", f"no permission to read {name}")
        if took_s >= self._options.load_timeout_s:
            return late_error(name, self._options, text)
        if _TIMED_OUT in str(error):
            return stall_error(name, self._options)
        return ItemError("load_failed", f"{name}: {text}")

    def _listing_error(self, error: Exception) -> SourceError:
        text = _text(error)
        if self._names_credentials(text, f"{self.uri}/{self._prefix}"):
            return self._login_error(text)
        if _NO_CONTAINER.search(text):
            return SourceError(f"{self.uri} does not exist: {text}")
        if "403 Forbidden" in text:
            advice = ". Run again without --anonymous" if self._options.anonymous else ""
            return SourceError(f"no permission to list {self.uri}: {text}{advice}")
        return SourceError(f"cannot list {self.uri}: {text}")

    def _names_credentials(self, text: str, name: str) -> bool:
        """Whether an error is about the credentials, and not about an object or bucket named like them."""
        for part in name.partition("://")[2].split("/"):
            if _CREDENTIALS.search(part):
                text = text.replace(part, "")
        return _CREDENTIALS.search(text) is not None

    def _login_error(self, text: str) -> SourceError:
        """Not an ItemError, because every later load would fail in the same way."""
        variables = "AWS_..." if self.uri.startswith("s3") else "AZURE_STORAGE_..."
        return SourceError(
            f"the credentials for {self.uri} are rejected: {text}. Check {variables} in the environment, or "
            "give --anonymous for a public bucket"
        )


def open_s3(bucket: str, prefix: str, options: SourceOptions) -> ObjectStoreSource:
    """`s3://bucket/prefix`, with the credentials, region and endpoint in AWS_... of the environment."""
    return _open(S3Store, f"s3://{bucket}", prefix, options, "AWS_", "AWS_ENDPOINT_URL")


def open_azure(container: str, prefix: str, options: SourceOptions) -> ObjectStoreSource:
    """`az://container/prefix`, with the account and its key in AZURE_STORAGE_... of the environment."""
    variables, endpoint = "AZURE_STORAGE_", "AZURE_STORAGE_ENDPOINT"
    return _open(AzureStore, f"az://{container}", prefix, options, variables, endpoint)


def _open(
    store: Any, uri: str, prefix: str, options: SourceOptions, variables: str, endpoint: str
) -> ObjectStoreSource:
    """Raises SourceError for what obstore does not take, or what its Rust code aborts at."""
    bucket = uri.partition("://")[2]
    if not _BUCKET.fullmatch(bucket):
        raise SourceError(f"{bucket!r} is not the name of a bucket or container")
    _check_environment(variables)
    _check_endpoint(endpoint)
    limits = _limits(options, allow_http=os.environ.get(endpoint, "").startswith("http://"))
    try:
        opened = store(bucket, skip_signature=options.anonymous, **limits)
    except _ERRORS as error:
        raise SourceError(
            f"cannot open {uri}: {_text(error)}. Check {variables}... in the environment"
        ) from None
    return ObjectStoreSource(uri, prefix, opened, options)


def _check_environment(prefix: str) -> None:
    """Raises SourceError, which never has the value."""
    for name, value in os.environ.items():
        if name.startswith(prefix) and not (value.isascii() and value.isprintable()):
            raise SourceError(
                f"{name} in the environment has a line break or another character that it cannot have"
            )


def _check_endpoint(variable: str) -> None:
    """Raises SourceError, which never has the value."""
    if (url := os.environ.get(variable)) is None:
        return
    try:
        parts = urlsplit(url)
        is_right = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        is_right = False
    if not is_right or "@" in parts.netloc or " " in url:
        raise SourceError(
            f"{variable} in the environment must be an http:// or https:// address without a login. Correct "
            "or unset it"
        )


def _limits(options: SourceOptions, *, allow_http: bool) -> dict[str, Any]:
    """A retry that begins within the limit of a load may take as long again."""
    whole, stall = timedelta(seconds=options.load_timeout_s), timedelta(seconds=options.stall_timeout_s)
    return {
        "client_options": {
            "allow_http": allow_http,
            "connect_timeout": stall,
            "read_timeout": stall,
            "timeout": whole,
        },
        "retry_config": {"retry_timeout": whole},
    }


def _info(meta: Mapping[str, Any]) -> ObjectInfo:
    # The ETag first: a bucket with versions names them when an object is loaded, not in its listing.
    generation = fingerprint(meta["e_tag"]) or fingerprint(meta["version"])
    mtime_ns = None if generation is not None else int(meta["last_modified"].timestamp() * 1e9)
    return ObjectInfo(meta["path"], int(meta["size"]), generation, mtime_ns=mtime_ns)


def _text(error: Exception) -> str:
    """The error in one line, without Rust's description of its fields."""
    text, _, fields = str(error).partition("\n\nDebug source:")
    cause = re.search(r'message: "([^"]+)"', fields)
    text = " ".join(re.sub(r"<[^>]*>", " ", text).split())[:400]
    return f"{text} ({cause[1]})" if cause else text
