"""Identities of objects as fixed-size numbers: millions of them fit into memory, names do not.

A key is a 128-bit hash of source and name: two of a billion objects share one with a probability of 1e-21.
A state is a 64-bit hash of what a listing says about the content.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt

from clip_client import ObjectInfo

KEY = np.dtype("S16")
Keys = npt.NDArray[Any]
"""KEY [N]. NumPy compares them by their bytes."""
States = npt.NDArray[np.int64]
UNKNOWN = 0
"""The state of an object of which a list gives the name alone: it equals every state."""


def keys_of(sources: Iterable[str], names: Iterable[str]) -> Keys:
    """KEY [N]."""
    digests = [
        blake2b(f"{source}\0{name}".encode("utf-8", "surrogatepass"), digest_size=16).digest()
        for source, name in zip(sources, names, strict=True)
    ]
    return np.frombuffer(b"".join(digests), KEY)


def keys_of_table(table: Any) -> Keys:
    """Of an Arrow table with the columns source and name."""
    return keys_of(table.column("source").to_pylist(), table.column("name").to_pylist())


def state_of(info: ObjectInfo) -> int:
    """Equal for two listings of one object if its content is the same.

    A generation decides; without one, the size and the modification time, or else the size and the CRC32C.
    """
    if info.generation is not None:
        return hash(("generation", info.generation)) or 1
    if info.mtime_ns is not None:
        return hash(("mtime", info.mtime_ns, info.size)) or 1
    if info.crc32c is not None:
        return hash(("crc32c", info.crc32c, info.size)) or 1
    return hash(("size", info.size)) or 1 if info.size else UNKNOWN


def states_of(infos: Sequence[ObjectInfo]) -> States:
    return np.fromiter(map(state_of, infos), np.int64, len(infos))


@dataclass(frozen=True)
class KeyTable:
    """Sorted keys, each once, with a number for each: 24 bytes per object."""

    keys: Keys
    values: npt.NDArray[np.int64]

    @classmethod
    def of(cls, keys: Sequence[Keys], values: Sequence[npt.NDArray[np.int64]]) -> KeyTable:
        """From batches. If a key is in several, its last value counts."""
        if not keys:
            return cls(np.empty(0, KEY), np.empty(0, np.int64))
        all_keys, all_values = np.concatenate(keys), np.concatenate(values)
        order = np.argsort(all_keys, kind="stable")
        ordered = all_keys[order]
        is_last = np.ones(len(ordered), bool)
        is_last[:-1] = ordered[1:] != ordered[:-1]
        return cls(ordered[is_last], all_values[order[is_last]])

    def __len__(self) -> int:
        return len(self.keys)

    def find(self, keys: Keys) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.int64]]:
        """Which keys are here, and their values; the values of others mean nothing. Both are [N]."""
        if not len(self.keys):
            return np.zeros(len(keys), bool), np.zeros(len(keys), np.int64)
        place = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return self.keys[place] == keys, self.values[place]

    def without(self, keys: Keys) -> KeyTable:
        """Without the given keys."""
        kept = ~np.isin(self.keys, keys)
        return KeyTable(self.keys[kept], self.values[kept])
