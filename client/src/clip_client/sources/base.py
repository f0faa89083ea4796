"""The Source protocol, and the objects that a source lists.

To add a source, write a class with Source's members and register it in SOURCES in
`clip_client/sources/__init__.py`.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import google_crc32c

from clip_client import defaults
from clip_client.errors import ItemError


@dataclass(frozen=True)
class ObjectInfo:
    """One object as listed by its source.

    `size` (bytes) and `crc32c` (base64, as in Google Cloud Storage) describe the stored bytes;
    `content_encoding` says whether these are compressed. `generation` changes when the object is replaced: in
    Google Cloud Storage it is the object's own, elsewhere the fingerprint() of its version or ETag.
    `mtime_ns`, the time of a file's last change, changes as a rule. A field is None if the source does not
    know it.
    """

    name: str
    size: int
    generation: int | None = None
    crc32c: str | None = None
    content_encoding: str | None = None
    mtime_ns: int | None = None


@dataclass(frozen=True)
class SourceOptions:
    """How a remote source is read.

    `connections` is the number of concurrent loads to keep connections for. One object must be loaded within
    `load_timeout_s` seconds, retries included, and never pause for `stall_timeout_s`. `user_project` is
    billed for a requester-pays bucket; `anonymous` reads a public bucket without credentials.
    """

    connections: int = defaults.CONCURRENCY
    load_timeout_s: float = defaults.LOAD_TIMEOUT_S
    stall_timeout_s: float = defaults.STALL_TIMEOUT_S
    user_project: str | None = None
    anonymous: bool = False


class Source(Protocol):
    """Lists photos and loads them. Several threads call `load` at the same time."""

    @property
    def uri(self) -> str:
        """Identifies the bucket or folder in which names are unique. Recorded with each row."""

    def check(self) -> None:
        """Raises SourceError if the photos cannot be listed. Fast: it comes before everything else."""

    def covers(self, name: str) -> bool:
        """Whether list() yields an object of this name if it exists: False for names outside a prefix."""

    def list(self) -> Iterator[ObjectInfo]:
        """Yields every photo, in a stable order. Raises SourceError."""

    def load(self, item: ObjectInfo) -> bytes:
        """Returns the whole object as it is stored.

        Raises ItemError if this photo cannot be loaded, and SourceError if no other one can be either.
        """


def fingerprint(tag: str | None) -> int | None:
    """A number of 63 bits that stands for an object's version or ETag; None without one."""
    tag = (tag or "").removeprefix("W/").strip('"')
    if not tag:
        return None
    return int.from_bytes(hashlib.sha256(tag.encode()).digest()[:8], "big") >> 1


def late_error(name: str, options: SourceOptions, cause: object = None) -> ItemError:
    """For an object that took longer than `load_timeout_s`."""
    text = f"{name} was not loaded within {options.load_timeout_s:g} s (--load-timeout)"
    return ItemError("load_timeout", text if cause is None else f"{text}: {cause}")


def stall_error(name: str, options: SourceOptions) -> ItemError:
    """For an object that paused for `stall_timeout_s`."""
    return ItemError(
        "load_timeout", f"{name} sent no data for {options.stall_timeout_s:g} s (--stall-timeout)"
    )


def shown(text: str) -> str:
    """HTTP addresses for messages and records: without logins and queries, which hold signatures."""
    text = re.sub(r"//[^/\s@]*@", "//", text)
    return re.sub(r"\?[^\s'\")]+", "?...", text)


def has_pattern(text: str) -> bool:
    """Whether `text` looks like a pattern that a shell would expand."""
    return any(character in text for character in "*?[")


def crc32c(data: bytes) -> str:
    """The CRC32C of `data` as Google Cloud Storage writes it: base64 of the big-endian checksum."""
    return base64.b64encode(google_crc32c.Checksum(data).digest()).decode()
