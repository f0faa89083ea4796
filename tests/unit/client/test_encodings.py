"""Objects that are stored compressed: unpacked, refused by name, and never beyond the limit."""

from __future__ import annotations

import gzip
import time
import tracemalloc
import zlib

import pytest

from clip_client import ItemError, ObjectInfo
from clip_client.sources.encodings import decoded

_LIMIT = 100_000
_PHOTO = b"\xff\xd8\xff" + bytes(range(256)) * 300


def raw_deflate(data: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-15)
    return stream.compress(data) + stream.flush()


_GZIP = gzip.compress(_PHOTO)


@pytest.mark.parametrize(
    ("encoding", "stored"),
    [
        (None, _PHOTO),
        ("", _PHOTO),
        ("identity", _PHOTO),
        ("gzip", _GZIP),
        ("GZIP", _GZIP),
        (" x-gzip ", _GZIP),
        ("gzip", _GZIP + b"trailing bytes"),
        ("gzip", _GZIP + bytes(512)),
        ("gzip", gzip.compress(_PHOTO[:9]) + gzip.compress(_PHOTO[9:])),
        ("gzip, identity", _GZIP),
        ("gzip, gzip", gzip.compress(_GZIP)),
        ("deflate, gzip", gzip.compress(zlib.compress(_PHOTO))),
        ("deflate", zlib.compress(_PHOTO)),
        ("Deflate", raw_deflate(_PHOTO)),
        *((name, _PHOTO) for name in ("gzip", "deflate", "br", "zstd", "utf-8", "image/jpeg")),
    ],
)
def test_what_can_be_read(encoding: str | None, stored: bytes) -> None:
    assert decoded(ObjectInfo("a", 1, content_encoding=encoding), stored, _LIMIT) == _PHOTO


@pytest.mark.parametrize(
    ("encoding", "stored", "code"),
    [
        ("br", b"\x8b\x03\x80abc", "unsupported_encoding"),
        ("ZSTD", b"\x28\xb5\x2f\xfd", "unsupported_encoding"),
        ("compress", b"\x1f\x9d", "unsupported_encoding"),
        ("utf-8", b"text", "unsupported_encoding"),
        ("gzip, br", b"text", "unsupported_encoding"),
        ("gzip", _GZIP[:-1], "load_failed"),
        ("gzip", _GZIP[:2], "load_failed"),
        ("gzip", _GZIP[:-8] + bytes(4) + _GZIP[-4:], "load_failed"),
        ("gzip", _GZIP + _GZIP[:50], "load_failed"),
        ("deflate", zlib.compress(_PHOTO)[:-9], "load_failed"),
        ("deflate", b"\x07nothing", "load_failed"),
        ("deflate", b"", "load_failed"),
        ("gzip", gzip.compress(bytes(_LIMIT + 1)), "too_many_bytes"),
        ("deflate", zlib.compress(bytes(_LIMIT + 1)), "too_many_bytes"),
        ("gzip", gzip.compress(bytes(_LIMIT)) + gzip.compress(b"1"), "too_many_bytes"),
    ],
)
def test_what_cannot(encoding: str, stored: bytes, code: str) -> None:
    with pytest.raises(ItemError) as caught:
        decoded(ObjectInfo("a.jpg", 1, content_encoding=encoding), stored, _LIMIT)
    assert caught.value.code == code
    assert caught.value.text.startswith("a.jpg is stored")


def test_a_photo_of_exactly_the_limit() -> None:
    stored = gzip.compress(bytes(_LIMIT))
    assert len(decoded(ObjectInfo("a", 1, content_encoding="gzip"), stored, _LIMIT)) == _LIMIT


def test_a_bomb_takes_no_more_memory_than_the_limit() -> None:
    bomb = gzip.compress(bytes(200_000_000))
    tracemalloc.start()
    try:
        with pytest.raises(ItemError, match="too_many_bytes"):
            decoded(ObjectInfo("a", 1, content_encoding="gzip"), bomb, _LIMIT)
        assert tracemalloc.get_traced_memory()[1] < 20 * _LIMIT
    finally:
        tracemalloc.stop()


def test_many_empty_members_take_linear_time() -> None:
    def seconds(count: int) -> float:
        stored = gzip.compress(b"") * count
        begin = time.process_time()
        assert decoded(ObjectInfo("a", 1, content_encoding="gzip"), stored, _LIMIT) == b""
        return time.process_time() - begin

    seconds(1000)
    assert seconds(200_000) < 40 * max(seconds(20_000), 0.01)
