"""A seeded mutation fuzzer over a corpus of every format: the same seed gives the same files."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np

from testing.pictures import (
    camera_photos,
    corrupt_pictures,
    encoded,
    odd_pictures,
    other_formats,
    source_picture,
)

_EXTREMES = (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\0\0\0\1", b"\xff\xd9")
_HEADER = 400
"""Half of all changes hit this many first bytes, which hold sides, tables and lengths."""


@cache
def corpus() -> tuple[bytes, ...]:
    """Sound files of every format and mode, and broken ones to break further."""
    cat = source_picture("chelsea.png").resize((225, 150))
    extra = [
        encoded(cat, "JPEG", progressive=True, subsampling=0),
        encoded(cat, "JPEG", restart_marker_blocks=3),
        encoded(cat, "TIFF", compression="jpeg"),
        encoded(cat.convert("1"), "TIFF", compression="group4"),
        encoded(cat.quantize(8), "GIF", interlace=1),
    ]
    broken = [data for data, _ in corrupt_pictures().values()]
    return (
        *odd_pictures().values(),
        *other_formats().values(),
        *extra,
        *(data for data in broken if len(data) < 1_000_000),
        *camera_photos(2, seed=11),
    )


def mutations(count: int, seed: int) -> Iterator[bytes]:
    """`count` files, each a corpus file after 1 to 8 changes."""
    random = np.random.default_rng(seed)
    files = corpus()
    for _ in range(count):
        data = bytearray(files[int(random.integers(len(files)))])
        for _ in range(int(random.integers(1, 9))):
            _change(data, files[int(random.integers(len(files)))], random)
        yield bytes(data)


def _change(data: bytearray, other: bytes, random: np.random.Generator) -> None:
    """One change in place: a bit, a byte, an extreme value, a cut, a repeat, another file's tail."""
    end = len(data) if random.random() < 0.5 else min(len(data), _HEADER)
    at = int(random.integers(end)) if end else 0
    length = int(random.integers(1, 200))
    kind = int(random.integers(7))
    if kind == 0 and data:
        data[at] ^= 1 << int(random.integers(8))
    elif kind == 1 and data:
        data[at] = int(random.integers(256))
    elif kind == 2:
        extreme = _EXTREMES[int(random.integers(len(_EXTREMES)))]
        data[at : at + len(extreme)] = extreme
    elif kind == 3:
        del data[at : at + length]
    elif kind == 4:
        data[at:at] = data[at : at + length]
    elif kind == 5 and random.random() < 0.3:
        del data[at:]
    elif kind == 6 and random.random() < 0.3:
        data[at:] = other[min(at, len(other)) :]
