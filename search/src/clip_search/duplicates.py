"""Finds photos that are there more than once. Nothing is deleted.

Exact duplicates have the same size and CRC32C, so the same bytes. Near duplicates are candidates by the
cosine of their embeddings, which means similar content. Each candidate pair is then verified on the pixels,
because two photos of one scene may be as close as two copies of one photo.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from clip_search import defaults, images
from clip_search.dataset import Dataset, Row
from clip_search.images import Signature, signature
from clip_search.photos import Photos
from clip_search.vectors import Vectors

Kind = Literal["exact", "near"]
Pair = tuple[int, int]


@dataclass(frozen=True)
class Copy:
    """One photo of a group. `cosine` is its similarity to the group's first; None is unknown."""

    index: int
    row: Row
    kind: Kind
    cosine: float
    pixels: int | None
    sharpness: float | None


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
        "sharpness": None if copy.sharpness is None else round(copy.sharpness, 2),
    }


def find_duplicates(dataset: Dataset, threshold: float, photos: Photos | None) -> Duplicates:
    """Near duplicates have a cosine of at least `threshold`; without `photos`, they are not verified.

    The time grows with the square of the number of rows. Raises SearchError without OpenCV, if `photos` is
    given.
    """
    rows = list(dataset.rows())
    by_leader = {members[0]: members for members in _same_bytes(rows)}
    leaders = np.array(list(by_leader))
    pairs = [(int(leaders[a]), int(leaders[b])) for a, b in near_pairs(dataset.vectors[leaders], threshold)]
    looks: dict[int, Signature] = {}
    unreadable: list[tuple[Row, str]] = []
    rejected = 0
    if photos is not None:
        repeated = {leader for leader, members in by_leader.items() if len(members) > 1}
        looks, unreadable = _looks(rows, sorted(repeated.union(*pairs)), photos)
        known = [(a, b) for a, b in pairs if a in looks and b in looks]
        pairs = [(a, b) for a, b in known if looks[a].is_like(looks[b])]
        rejected = len(known) - len(pairs)
    groups = [_group(dataset, rows, linked, by_leader, looks) for linked in _linked(by_leader, pairs)]
    return Duplicates([group for group in groups if len(group) > 1], rejected, unreadable)


def _looks(
    rows: Sequence[Row], wanted: Sequence[int], photos: Photos
) -> tuple[dict[int, Signature], list[tuple[Row, str]]]:
    """The signatures of the rows `wanted`, and those that have none, with the reason."""
    images.require()
    looks: dict[int, Signature] = {}
    unreadable: list[tuple[Row, str]] = []
    for index, found in zip(wanted, photos.each([rows[index] for index in wanted], signature), strict=True):
        if isinstance(found, Signature):
            looks[index] = found
        else:
            unreadable.append((rows[index], found or "OpenCV cannot read this format"))
    return looks, unreadable


def _same_bytes(rows: Sequence[Row]) -> list[list[int]]:
    """The numbers of rows, in sets of equal size and CRC32C; a row without a CRC32C is a set of its own."""
    sets: dict[tuple[object, ...], list[int]] = {}
    for index, row in enumerate(rows):
        key = (row.size, row.crc32c) if row.crc32c and row.size is not None else (index,)
        sets.setdefault(key, []).append(index)
    return list(sets.values())


def near_pairs(vectors: Vectors, threshold: float) -> Iterator[Pair]:
    """Pairs (a, b), a < b, of rows with a product of at least `threshold`; compared tile by tile."""
    step = defaults.TILE_ROWS
    for begin in range(0, len(vectors), step):
        for other in range(begin, len(vectors), step):
            products = vectors[begin : begin + step] @ vectors[other : other + step].T
            for a, b in np.argwhere(products >= threshold):
                if begin + a < other + b:
                    yield int(begin + a), int(other + b)


def _linked(leaders: Iterable[int], pairs: Iterable[Pair]) -> list[list[int]]:
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
    rows: Sequence[Row],
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
        sharp = sharpness(leader) if leader in looks else None
        for index in sorted(
            by_leader[leader], key=lambda index: (rows[index].name, rows[index].source or "")
        ):
            copies.append(Copy(index, rows[index], kind, cosine, pixels(leader) or None, sharp))
    return copies
