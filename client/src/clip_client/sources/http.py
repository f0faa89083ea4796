"""Photos at HTTP(S) addresses: one, or a text file with an address per line."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from email.utils import parsedate_to_datetime
from functools import cached_property
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

import requests
import urllib3

from clip_client import defaults
from clip_client.errors import ItemError, SourceError
from clip_client.requests.backoff import Backoff
from clip_client.sources.base import ObjectInfo, SourceOptions, fingerprint, late_error, shown, stall_error
from clip_client.sources.deadline import DeadlineExceeded, deadline, limit_reads
from clip_client.threads import DaemonExecutor

_TIMEOUTS = (DeadlineExceeded, requests.Timeout, urllib3.exceptions.TimeoutError)
_RETRYABLE = (
    requests.ConnectionError,
    requests.exceptions.ChunkedEncodingError,
    urllib3.exceptions.ProtocolError,  # of a body that ends too early
)
_FAILED = (requests.RequestException, urllib3.exceptions.HTTPError, ValueError)
"""ValueError is urllib's, for a redirect to a malformed address."""
_BUSY = (408, 429, 500, 502, 503, 504)
_HEADERS = {"Accept-Encoding": "identity"}
"""Stored bytes, which have the size that a HEAD request states."""
_CHUNK_BYTES = 1024 * 1024
_GONE = (404, 410)
_FORBIDDEN = (401, 403, 451)
_MOST_NS = 2**63 - 1
"""What the output can hold."""


class HttpSource:
    """A photo at `url`; or those in the list at `url`, whose path ends in .txt.

    A list has one address per line, absolute or relative to its own, all of the list's host. An object's name
    is the rest of its address after the host. A HEAD request tells its size, and its ETag or time of change.

    A login in the address is sent to its host only, and is not part of `uri`. Raises SourceError for a
    malformed address.
    """

    def __init__(self, url: str, options: SourceOptions | None = None) -> None:
        self._options = options or SourceOptions()
        parts = _split(url)
        self._url, self._login = _without_login(url)
        self._is_list = parts.path.lower().endswith(".txt")
        self.uri = f"{parts.scheme}://{_host(parts)}"
        self._session = requests.Session()
        self._session.auth = self._login
        limit_reads(self._session, self._options.connections)

    @cached_property
    def _names(self) -> dict[str, None]:
        """In their order, each once. Raises SourceError."""
        if not self._is_list:
            return {self._name(self._url): None} if urlsplit(self._url).path.strip("/") else {}
        try:
            lines = self._get(self._url, "list").decode("utf-8-sig").splitlines()
        except (ItemError, UnicodeDecodeError) as error:
            raise SourceError(f"cannot read the list {shown(self._url)}: {error}") from error
        return {self._name(self._absolute(line.strip())): None for line in lines if line.strip()}

    def _absolute(self, line: str) -> str:
        """The address in a line of the list, without its login."""
        try:
            address, login = _without_login(urljoin(self._url, line))
        except ValueError as error:
            raise SourceError(f"{shown(self._url)} has a line that is not an address: {error}") from error
        if login not in (None, self._login):
            raise SourceError(
                f"{shown(self._url)} has an address with a login of its own. Give the login in the address "
                "of the list, or in ~/.netrc"
            )
        return address

    def _name(self, address: str) -> str:
        if not address.startswith(f"{self.uri}/"):
            raise SourceError(
                f"{shown(self._url)} has the address {shown(address)} of another host. Give a list for "
                "each host"
            )
        return address.removeprefix(f"{self.uri}/")

    def check(self) -> None:
        if not self._names:
            raise SourceError(
                f"{shown(self._url)} names no photo. Give the address of one, or of a list (.txt)"
            )

    def covers(self, name: str) -> bool:
        """An object that is no longer in a list may well exist."""
        return name in self._names

    def list(self) -> Iterator[ObjectInfo]:
        names = [*self._names]
        pool = DaemonExecutor(self._options.connections, "clip-list")
        try:
            step = self._options.connections * 4
            for begin in range(0, len(names), step):
                yield from pool.map(self._describe, names[begin : begin + step])
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _describe(self, name: str) -> ObjectInfo:
        """Without size and state if the server does not tell them; load() says why."""
        try:
            with deadline(self._options.stall_timeout_s):
                answer = self._session.head(
                    f"{self.uri}/{name}",
                    headers=_HEADERS,
                    allow_redirects=True,
                    timeout=self._options.stall_timeout_s,
                )
        except (*_TIMEOUTS, *_FAILED):
            return ObjectInfo(name, 0)
        return _info(name, answer) if answer.ok else ObjectInfo(name, 0)

    def load(self, item: ObjectInfo) -> bytes:
        return self._get(f"{self.uri}/{item.name}", item.name, item.generation)

    def _get(self, url: str, name: str, generation: int | None = None) -> bytes:
        """The whole content. Retries until the time limit. Raises ItemError."""
        end, backoff, address = time.monotonic() + self._options.load_timeout_s, Backoff(), shown(url)
        while True:
            least_s = 0.0
            try:
                with deadline(end - time.monotonic()):
                    return self._get_once(url, name, generation)
            except DeadlineExceeded as error:
                raise late_error(address, self._options) from error
            except _TIMEOUTS as error:
                raise stall_error(address, self._options) from error
            except _Busy as error:
                cause, least_s = str(error), error.retry_after_s
            except _RETRYABLE as error:
                cause = shown(str(error))
            except _FAILED as error:
                raise ItemError("load_failed", f"{address}: {shown(str(error))}") from error
            pause_s = max(least_s, backoff.next_s())
            if time.monotonic() + pause_s >= end:
                raise late_error(address, self._options, cause)
            time.sleep(pause_s)

    def _get_once(self, url: str, name: str, generation: int | None) -> bytes:
        answer = self._session.get(url, headers=_HEADERS, stream=True, timeout=self._options.stall_timeout_s)
        with closing(answer):
            _require_ok(answer, shown(url))
            if generation is not None and _info(name, answer).generation != generation:
                raise ItemError("not_found", f"{shown(url)} was replaced after it was listed")
            return _content(answer, shown(url))


def _require_ok(answer: requests.Response, url: str) -> None:
    status = answer.status_code
    if status in _BUSY:
        raise _Busy(answer)
    if status in _GONE:
        raise ItemError("not_found", f"{url} does not exist: HTTP status {status}")
    if status in _FORBIDDEN:
        advice = ". Give a login in ~/.netrc" if status == requests.codes.unauthorized else ""
        raise ItemError("forbidden", f"no permission to read {url}: HTTP status {status}{advice}")
    if status != requests.codes.ok:
        raise ItemError("load_failed", f"{url}: HTTP status {status} {answer.reason}")


class _Busy(Exception):  # noqa: N818 - reads as the state that it names
    """The server asks to try again, perhaps not before `retry_after_s`."""

    def __init__(self, answer: requests.Response) -> None:
        super().__init__(f"HTTP status {answer.status_code} {answer.reason}")
        text = answer.headers.get("Retry-After", "")
        self.retry_after_s = float(text) if text.isdecimal() else 0.0


def _content(answer: requests.Response, url: str) -> bytes:
    parts, size = [], 0
    while chunk := answer.raw.read(_CHUNK_BYTES):
        parts.append(chunk)
        size += len(chunk)
        if size > defaults.MAX_PHOTO_BYTES:
            raise ItemError("too_many_bytes", f"{url} has more than {defaults.MAX_PHOTO_BYTES:,} bytes")
    return b"".join(parts)


def _info(name: str, answer: requests.Response) -> ObjectInfo:
    headers = answer.headers
    generation = fingerprint(headers.get("ETag"))
    size = headers.get("Content-Length", "")
    return ObjectInfo(
        name,
        int(size) if size.isdecimal() else 0,
        generation,
        content_encoding=headers.get("Content-Encoding"),
        mtime_ns=None if generation is not None else _mtime_ns(headers.get("Last-Modified")),
    )


def _mtime_ns(text: str | None) -> int | None:
    try:
        found = None if text is None else int(parsedate_to_datetime(text).timestamp() * 1e9)
    except (ValueError, TypeError, OverflowError):
        return None
    return found if found is None or abs(found) <= _MOST_NS else None


def _split(url: str) -> SplitResult:
    """Raises SourceError."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise SourceError(f"{shown(url)} is not an address: {error}") from error
    if not parts.hostname:
        raise SourceError(f"{shown(url)} has no host name")
    return parts


def _host(parts: SplitResult) -> str:
    """With its port."""
    return parts.netloc.rpartition("@")[2]


def _without_login(url: str) -> tuple[str, tuple[str, str] | None]:
    """The address, and the user and password in it. Raises SourceError."""
    parts = _split(url)
    if "@" not in parts.netloc:
        return url, None
    login = unquote(parts.username or ""), unquote(parts.password or "")
    return url.replace(parts.netloc, _host(parts), 1), login
