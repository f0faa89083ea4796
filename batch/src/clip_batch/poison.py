"""Photos that crash servers: found out once, and then not sent again by any worker of the job.

An entry names the content, by size and CRC32C, so that copies under other names are not sent either.
"""

from __future__ import annotations

import base64
import threading
import time
from typing import Any

from clip_batch import defaults
from clip_batch.layout import POISON
from clip_batch.storage import Storage, read_json, write_json
from clip_client import ObjectInfo
from clip_client.errors import ServerCrash
from clip_client.sources.base import crc32c

_Content = tuple[int, str]
"""Size and CRC32C (base64)."""


class PoisonList:
    """The list in the job's output. Safe to use from several threads."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._lock = threading.Lock()
        self._read_at = float("-inf")
        self._found: dict[_Content, str] = {}

    def check(self, item: ObjectInfo, data: bytes | None = None) -> None:
        """Raises the recorded ServerCrash if the object is on the list.

        Without a listed checksum, this takes the object's `data`.
        """
        found = self._refreshed()
        if not any(size == item.size for size, _ in found):
            return
        checksum = item.crc32c or (crc32c(data) if data is not None else "")
        if text := found.get((item.size, checksum)):
            raise ServerCrash("request_failed", text)

    def add(self, source: str, item: ObjectInfo, error: ServerCrash) -> None:
        """Adds an object that was loaded, so that its checksum is known."""
        address = f"{source}/{item.name}"
        text = error.text
        if "; not sent again" not in text:
            text += f"; not sent again since {time.strftime('%Y-%m-%d %H:%M:%S')} ({address})"
        entry = {"address": address, "size": item.size, "crc32c": item.crc32c, "text": text}
        write_json(self._storage, _name(item), entry)

    def forgive(self, item: ObjectInfo) -> None:
        """Takes an object off the list, so that it is sent again; without a checksum, all of its size."""
        if item.crc32c is not None:
            self._storage.delete(_name(item))
            return
        for file in list(self._storage.list(POISON)):
            if file.name.startswith(f"{POISON}/{item.size}-"):
                self._storage.delete(file.name)

    def _refreshed(self) -> dict[_Content, str]:
        with self._lock:
            if time.monotonic() - self._read_at > defaults.POISON_REFRESH_S:
                for file in self._storage.list(POISON):
                    content, text = read_json(self._storage, file.name, _entry)
                    self._found[content] = text
                self._read_at = time.monotonic()
            return self._found


def _entry(entry: dict[str, Any]) -> tuple[_Content, str]:
    return (entry["size"], entry["crc32c"]), entry["text"]


def _name(item: ObjectInfo) -> str:
    return f"{POISON}/{item.size}-{base64.b64decode(item.crc32c or '').hex()}.json"
