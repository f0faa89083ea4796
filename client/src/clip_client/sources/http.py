"""Photos at HTTP(S) addresses: one, or a text file with an address per line."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from email.utils import parsedate_to_datetime
from functools import cached_property
from urllib.parse import urljoin, urlsplit

import requests
import urllib3

from clip_client import defaults
from clip_client.errors import ItemError, SourceError
from clip_client.requests.backoff import Backoff
from clip_client.sources.base import ObjectInfo, SourceOptions, fingerprint, late_error, stall_error
from clip_client.sources.deadline import DeadlineExceeded, deadline, limit_reads
from clip_client.threads import DaemonExecutor

_TIMEOUTS = (DeadlineExceeded, requests.Timeout, urllib3.exceptions.TimeoutError)
_RETRYABLE = (requests.ConnectionError, requests.exceptions.ChunkedEncodingError)
_BUSY = (408, 429, 500, 502, 503, 504)
_HEADERS = {"Accept-Encoding": "identity"}
"""Stored bytes, which have the size that a HEAD request states."""
_CHUNK_BYTES = 1024 * 1024
_GONE = (404, 410)
_FORBIDDEN = (401, 403, 451)


class HttpSource:
    """A photo at `url`; or those in the list at `url`, whose path ends in .txt.

    A list has one address per line, absolute or relative to its own, all of the list's host. An object's name
    is the rest of its address after the host. A HEAD request tells its size, and its ETag or time of change.
    """

    def __init__(self, url: str, options: SourceOptions | None = None) -> None:
        self._options = options or SourceOptions()
        parts = urlsplit(url)
        self._url, self._is_list = url, parts.path.lower().endswith(".txt")
        self.uri = f"{parts.scheme}://{parts.netloc}"
        self._session = requests.Session()
        limit_reads(self._session, self._options.connections)

    @cached_property
    def _names(self) -> dict[str, None]:
        """In their order, each once. Raises SourceError."""
        if not self._is_list:
            return {self._name(self._url): None} if urlsplit(self._url).path.strip("/") else {}
        try:
            lines = self._get(self._url, "list").decode("utf-8-sig").splitlines()
        except (ItemError, UnicodeDecodeError) as error:
            raise SourceError(f"cannot read the list {self._url}: {error}") from error
        return {self._name(urljoin(self._url, line.strip())): None for line in lines if line.strip()}

    def _name(self, address: str) -> str:
        if not address.startswith(f"{self.uri}/"):
            raise SourceError(
                f"{self._url} has the address {address} of another host. Give a list for each host"
            )
        return address.removeprefix(f"{self.uri}/")

    def check(self) -> None:
        if not self._names:
            raise SourceError(f"{self._url} names no photo. Give the address of one, or of a list (.txt)")

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
        except (*_TIMEOUTS, requests.RequestException):
            return ObjectInfo(name, 0)
        return _info(name, answer) if answer.ok else ObjectInfo(name, 0)

    def load(self, item: ObjectInfo) -> bytes:
        return self._get(f"{self.uri}/{item.name}", item.name, item.generation)

    def _get(self, url: str, name: str, generation: int | None = None) -> bytes:
        """The whole content. Retries until the time limit. Raises ItemError."""
        end, backoff = time.monotonic() + self._options.load_timeout_s, Backoff()
        while True:
            try:
                with deadline(end - time.monotonic()):
                    return self._get_once(url, name, generation)
            except DeadlineExceeded as error:
                raise late_error(url, self._options) from error
            except _TIMEOUTS as error:
                raise stall_error(url, self._options) from error
            except _Busy as error:
                cause: Exception = error
            except _RETRYABLE as error:
                cause = error
            except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
                raise ItemError("load_failed", f"{url}: {error}") from error
            pause_s = backoff.next_s()
            if time.monotonic() + pause_s >= end:
                raise late_error(url, self._options, cause) from cause
            time.sleep(pause_s)

    def _get_once(self, url: str, name: str, generation: int | None) -> bytes:
        answer = self._session.get(url, headers=_HEADERS, stream=True, timeout=self._options.stall_timeout_s)
        with closing(answer):
            status = answer.status_code
            if status in _BUSY:
                raise _Busy(f"HTTP status {status} {answer.reason}")
            if status in _GONE:
                raise ItemError("not_found", f"{url} does not exist: HTTP status {status}")
            if status in _FORBIDDEN:
                raise ItemError("forbidden", f"no permission to read {url}: HTTP status {status}")
            if status != requests.codes.ok:
                raise ItemError("load_failed", f"{url}: HTTP status {status} {answer.reason}")
            if generation is not None and _info(name, answer).generation != generation:
                raise ItemError("not_found", f"{url} was replaced after it was listed")
            return _content(answer, url)


class _Busy(Exception):  # noqa: N818 - reads as the state that it names
    """The server asks to try again."""


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
        int(size) if size.isdigit() else 0,
        generation,
        content_encoding=headers.get("Content-Encoding"),
        mtime_ns=None if generation is not None else _mtime_ns(headers.get("Last-Modified")),
    )


def _mtime_ns(text: str | None) -> int | None:
    try:
        return None if text is None else int(parsedate_to_datetime(text).timestamp() * 1e9)
    except (ValueError, TypeError):
        return None
