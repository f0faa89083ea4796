"""A seeded mutation fuzzer over a corpus of every format: the same seed gives the same files."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np

from testing.odd_files import animations, odd_files
from testing.odd_jpegs import header_places, segment
from testing.pictures import (
    camera_photos,
    corrupt_pictures,
    encoded,
    odd_pictures,
    other_formats,
    source_picture,
)
from testing.tiffs import odd_tiffs, wide_pictures

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
    odd = [each.data for each in (odd_files() | odd_tiffs()).values()]
    odd += [data for data, *_ in (wide_pictures() | animations()).values()]
    broken = [data for data, _ in corrupt_pictures().values()]
    return (
        *odd_pictures().values(),
        *other_formats().values(),
        *extra,
        *odd,
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


def header_noise(count: int, seed: int) -> Iterator[tuple[bytes, bytes]]:
    """`count` JPEGs with 1 to 8 defects outside of their picture data, each with the intact file."""
    random = np.random.default_rng(seed)
    files = [data for name, data in odd_pictures().items() if name.endswith(".jpg")]
    for _ in range(count):
        clean = files[int(random.integers(len(files)))]
        noisy = clean
        places = header_places(clean)
        some = random.choice(places[1:], int(random.integers(1, min(6, len(places)))), replace=False)
        for at in sorted(some, reverse=True):
            noisy = noisy[:at] + _noise(random) + noisy[at:]
        if random.random() < 0.3:
            noisy = noisy[:2] + _junk(random) + noisy[2:]
        if random.random() < 0.3:
            noisy = _junk(random)[:16] + noisy
        if random.random() < 0.3:
            noisy = noisy[:-2] + b"\xff" * int(random.integers(2))
        yield noisy, clean


def _noise(random: np.random.Generator) -> bytes:
    """Stray bytes, a marker that means nothing here, or a segment that the pixels do not depend on."""
    junk = _junk(random)
    kind = int(random.integers(6))
    if kind == 0:
        return bytes([0xFF, int(random.integers(0xE3, 0xEE))]) + len(junk + b"12").to_bytes(2, "big") + junk
    if kind == 1:
        return segment(0xE2, b"ICC_PROFILE\0" + junk)
    if kind == 2:
        return segment(0xEE, b"Adobe" + junk[:6])
    if kind == 3:
        return bytes([0xFF, int(random.choice([0x00, 0x01, 0x47, 0xD0, 0xD7, 0xF0]))])
    return junk if kind == 4 else junk + b"\xff\0" + junk + b"\xff"


def _junk(random: np.random.Generator) -> bytes:
    """Bytes without a marker."""
    return random.integers(0, 255, int(random.integers(1, 40)), np.uint8).tobytes()
