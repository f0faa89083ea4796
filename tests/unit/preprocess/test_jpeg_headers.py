"""What a JPEG costs beside its pixels: bounded per megabyte, whatever the megabytes are."""

from __future__ import annotations

import contextlib
import time
from functools import cache

import pytest

from clip_preprocess import ItemError, PreprocessSettings, preprocess_one
from clip_preprocess.headers import jpeg
from testing.jpeg_bombs import jpeg_bombs
from testing.odd_jpegs import header_places, segment
from testing.pictures import camera_photos, encoded, oriented, source_picture

LENGTH = 4_000_000
MOST = 8
"""Times the CPU that intact camera photos take per byte, on the same machine. Measured: at most 1.6."""
_BOMBS = jpeg_bombs(LENGTH)


def seconds(data: bytes) -> float:
    """CPU seconds from the file to its pixels or its error."""
    started = time.process_time()
    with contextlib.suppress(ItemError):
        preprocess_one(data, PreprocessSettings((64, 64), quality="fast"))
    return time.process_time() - started


@cache
def yardstick() -> float:
    """CPU seconds per byte of intact photos."""
    photos = camera_photos(4, seed=3)
    return sum(map(seconds, photos)) / sum(map(len, photos))


@pytest.mark.parametrize("name", _BOMBS)
def test_a_megabyte_of_anything_costs_no_more_than_a_few_of_pixels(name: str) -> None:
    data = _BOMBS[name]()
    taken = seconds(data)
    assert taken < MOST * yardstick() * len(data), f"{taken:.2f} s"


def test_the_orientation_is_in_the_first_of_many_exif_segments() -> None:
    photo = oriented(source_picture("chelsea.png"), 6)
    scan = header_places(photo)[-1]
    long = photo[:scan] + segment(0xE1, b"Exif\0\0" + bytes(65_000)) * 100 + photo[scan:]
    header = jpeg.read_header(long)
    assert len(header.exif) == jpeg.MAX_EXIF
    settings = PreprocessSettings((64, 64))
    assert preprocess_one(long, settings).tobytes() == preprocess_one(photo, settings).tobytes()


def test_a_few_hundred_full_segments_are_no_bomb() -> None:
    photo = encoded(source_picture("chelsea.png"), "JPEG")
    many = photo[:2] + segment(0xEB, bytes(65_000)) * 400 + photo[2:]
    assert jpeg.read_header(many).size == (451, 300)
