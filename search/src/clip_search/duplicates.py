"""Finds photos that are there more than once. Nothing is deleted.

Exact duplicates have the same size and CRC32C, so the same bytes. Near duplicates are candidates by the
cosine of their embeddings, which means similar content. Each candidate pair is then verified on the pixels,
because two photos of one scene may be as close as two copies of one photo.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from clip_search import defaults, images
from clip_search.dataset import Dataset, Row
from clip_search.images import Signature, signature
from clip_search.near import near_pairs
from clip_search.photos import Photos

Kind = Literal["exact", "near"]
Progress = Callable[[str, int, int], None]
"""Gets what is being done, and how many of how many steps are done."""


@dataclass(frozen=True)
class Copy:
    """One photo of a group. `cosine` is its similarity to the group's first; None is unknown.

    The last three are those of Signature.
    """

    index: int
    row: Row
    kind: Kind
    cosine: float
    pixels: int | None
    sharpness: float | None
    brightness: float | None
    clipped: float | None


@dataclass(frozen=True)
class Duplicates:
    """Groups of at least two photos, the one to keep first: the largest, then the sharpest.

    `rejected` candidate pairs look different. `unreadable` are photos whose pairs could not be verified, with
    the reason; these pairs are not in the groups.
    """

    groups: list[list[Copy]]
    rejected: int = 0
    unreadable: Sequence[tuple[Row, str]] = ()

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "groups": [
                [_values(copy, is_kept=not place) for place, copy in enumerate(g)] for g in self.groups
            ],
            "rejected": self.rejected,
            "unreadable": [{"name": row.name, "reason": reason} for row, reason in self.unreadable],
        }


def _values(copy: Copy, *, is_kept: bool) -> dict[str, Any]:
    return {
        "keep": is_kept,
        "kind": copy.kind,
        "cosine": round(copy.cosine, 6),
        "source": copy.row.source,
        "name": copy.row.name,
        "pixels": copy.pixels,
        **{name: _rounded(getattr(copy, name)) for name in ("sharpness", "brightness", "clipped")},
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def find_duplicates(
    dataset: Dataset, threshold: float, photos: Photos | None, on_progress: Progress = lambda *_: None
) -> Duplicates:
    """Near duplicates have a cosine of at least `threshold`; without `photos`, they are not verified.

    near_pairs() says how many rows are compared. Raises SearchError without OpenCV, if `photos` is given.
    """
    first = _first_of_same_bytes(dataset)
    leaders = np.flatnonzero(first == np.arange(len(first)))
    pairs = near_pairs(dataset.vectors, threshold, leaders, partial(on_progress, "comparing"))
    copies = np.flatnonzero(first != np.arange(len(first)))
    by_leader = {int(leader): [int(leader)] for leader in np.union1d(pairs, first[copies])}
    for copy in copies:
        by_leader[int(first[copy])].append(int(copy))
    involved = sorted(index for members in by_leader.values() for index in members)
    rows = dict(zip(involved, dataset.rows_at(involved), strict=True)) if involved else {}
    looks: dict[int, Signature] = {}
    unreadable: list[tuple[Row, str]] = []
    rejected = 0
    if photos is not None:
        looks, unreadable = _looks(rows, list(by_leader), photos, partial(on_progress, "verifying"))
        known = pairs[np.isin(pairs, list(looks)).all(axis=1)]
        pairs = known[np.array([looks[a].is_like(looks[b]) for a, b in _each(known)], bool)]
        rejected = len(known) - len(pairs)
    groups = [_group(dataset, rows, each, by_leader, looks) for each in _linked(by_leader, _each(pairs))]
    return Duplicates([group for group in groups if len(group) > 1], rejected, unreadable)


def _looks(
    rows: Mapping[int, Row],
    wanted: Sequence[int],
    photos: Photos,
    on_progress: Callable[[int, int], None],
) -> tuple[dict[int, Signature], list[tuple[Row, str]]]:
    """The signatures of the rows `wanted`, and those that have none, with the reason."""
    images.require()
    looks: dict[int, Signature] = {}
    unreadable: list[tuple[Row, str]] = []
    loaded = photos.each([rows[index] for index in wanted], signature)
    for done, (index, found) in enumerate(zip(wanted, loaded, strict=True), 1):
        if isinstance(found, Signature):
            looks[index] = found
        else:
            unreadable.append((rows[index], found or "OpenCV cannot read this format"))
        on_progress(done, len(wanted))
    return looks, unreadable


def _first_of_same_bytes(dataset: Dataset) -> npt.NDArray[np.int64]:
    """Of each row, the first row with its size and CRC32C; itself if either is unknown."""
    rows = np.arange(len(dataset))
    codes = dataset.table["crc32c"].combine_chunks().dictionary_encode().indices
    known = dataset.table["size"].is_valid().combine_chunks().cast(pa.uint8())
    sizes = np.from_dlpack(dataset.table["size"].fill_null(0).combine_chunks())
    is_known = (np.from_dlpack(codes.is_valid().cast(pa.uint8())) & np.from_dlpack(known)).astype(bool)
    kinds, size_of = np.unique(sizes, return_inverse=True)
    keys = np.from_dlpack(codes.fill_null(0)).astype(np.int64) * len(kinds) + size_of
    keys[~is_known] = -1 - rows[~is_known]
    _, firsts, number = np.unique(keys, return_index=True, return_inverse=True)
    return np.asarray(firsts[number], np.int64)


def _each(pairs: npt.NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """The pairs as Python's numbers, which take ten times the memory, a block at a time."""
    for begin in range(0, len(pairs), defaults.BLOCK_ROWS):
        yield from map(tuple, pairs[begin : begin + defaults.BLOCK_ROWS].tolist())


def _linked(leaders: Iterable[int], pairs: Iterable[tuple[int, int]]) -> list[list[int]]:
    """Connected leaders, in the order of the dataset."""
    root = {leader: leader for leader in leaders}

    def top(index: int) -> int:
        while root[index] != index:
            root[index] = index = root[root[index]]
        return index

    for a, b in pairs:
        first, last = sorted((top(a), top(b)))
        root[last] = first
    found: dict[int, list[int]] = {}
    for leader in root:
        found.setdefault(top(leader), []).append(leader)
    return list(found.values())


def _group(
    dataset: Dataset,
    rows: Mapping[int, Row],
    linked: Sequence[int],
    by_leader: dict[int, list[int]],
    looks: dict[int, Signature],
) -> list[Copy]:
    """The copies of one group, best first, then by name."""

    def pixels(leader: int) -> int:
        row = rows[leader]
        return looks[leader].pixels if leader in looks else (row.width or 0) * (row.height or 0)

    def sharpness(leader: int) -> float:
        return looks[leader].sharpness if leader in looks else 0.0

    sharpest: dict[int, float] = {}
    for leader in linked:
        sharpest[pixels(leader)] = max(sharpest.get(pixels(leader), 0.0), sharpness(leader))

    def quality(leader: int) -> tuple[float, ...]:
        """Pixels, sharpness; of about equally sharp ones the largest file, as compression adds edges."""
        is_sharp = sharpness(leader) >= defaults.AS_SHARP * sharpest[pixels(leader)]
        size = rows[leader].size or 0
        return (pixels(leader), is_sharp, size if is_sharp else 0, sharpness(leader))

    ordered = sorted(linked, key=quality, reverse=True)
    best = ordered[0]
    copies = []
    for leader in ordered:
        kind: Kind = "exact" if leader == best else "near"
        cosine = min(1.0, float(dataset.vectors[leader] @ dataset.vectors[best]))
        look = looks.get(leader)
        scores = (look.sharpness, look.brightness, look.clipped) if look else (None, None, None)
        for index in sorted(
            by_leader[leader], key=lambda index: (rows[index].name, rows[index].source or "")
        ):
            copies.append(Copy(index, rows[index], kind, cosine, pixels(leader) or None, *scores))
    return copies
