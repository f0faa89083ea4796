"""What both clients accept as photos, options and addresses."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clip_client import AsyncClipClient, ClipClient, ConnectionOptions, ItemError, ServerUnavailable
from clip_client.photos import read_photo, size_of
from tests.unit.client.servers import INFO, AsyncFakeTransport, FakeTransport


def embed(images: Any) -> Any:
    with ClipClient(transport=FakeTransport(lambda _: None)) as client:
        return client.embed(images, on_error="return")


def embed_async(images: Any) -> Any:
    async def ask() -> Any:
        async with AsyncClipClient(transport=AsyncFakeTransport(lambda _: None)) as client:
            return await client.embed(images, on_error="return")

    return asyncio.run(ask())


both_ways = pytest.mark.parametrize("how", [embed, embed_async])


@both_ways
@pytest.mark.parametrize(
    "photo",
    ["a.jpg", b"photo", Path("a.jpg"), bytearray(b"photo"), memoryview(b"photo"), io.BytesIO(b"photo")],
    ids=lambda photo: type(photo).__name__,
)
def test_one_photo_without_a_list_is_a_type_error(photo: Any, how: Any) -> None:
    with pytest.raises(TypeError, match=r"embed\(\[photo\]\)"):
        how(photo)


@both_ways
def test_what_cannot_be_a_photo_is_named(how: Any) -> None:
    with pytest.raises(TypeError, match=r"must be a list of photos, not of type int"):
        how(3)
    with pytest.raises(TypeError, match=r"images\[1\] is of type numpy.ndarray\. A photo is encoded bytes"):
        how([b"photo", np.zeros((4, 4, 3), np.uint8)])
    with pytest.raises(TypeError, match=r"images\[0\] is of type NoneType"):
        how([None])


@both_ways
def test_photos_in_memory_and_in_files(how: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"xphoto")
    with path.open("rb") as file, path.open(encoding="latin-1") as text:
        file.seek(1)
        photos = [bytearray(b"photo"), memoryview(b"photo"), io.BytesIO(b"photo"), file, path, str(path)]
        assert [entry.shape for entry in how(photo for photo in photos)] == [(2,)] * 6
        assert file.read() == b"", "read from its position to its end"
        with pytest.raises(TypeError, match=r"text mode.*binary"):
            how([text])
    (closed,) = how([file])
    assert closed.code == "load_failed"
    assert "closed file" in closed.text


def test_the_bytes_of_every_kind_of_photo(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"photo")
    wide = memoryview(b"photos").cast("H")
    assert (size_of(wide), read_photo(INFO, wide)) == (6, b"photos")
    with (tmp_path / "a.jpg").open("rb") as file:
        file.seek(2)
        assert (size_of(file), read_photo(INFO, file)) == (3, b"oto")
    small = dataclasses.replace(INFO, parameters={"max_bytes": "4"})
    for photo in (bytearray(b"photo"), memoryview(b"photo"), io.BytesIO(b"photo"), tmp_path / "a.jpg"):
        error = read_photo(small, photo)
        assert isinstance(error, ItemError)
        assert error.code == "too_many_bytes"


@pytest.mark.parametrize("client", [ClipClient, AsyncClipClient])
@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("deadline_s", value) for value in (0, -1, math.nan, math.inf, 1e12)),
        *((name, 0) for name in ("concurrency", "images_per_request", "bytes_per_request")),
    ],
)
def test_options_that_no_client_can_have_are_named(client: Any, option: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{option} must be a positive number"):
        client(**{option: value})


@pytest.mark.parametrize("client", [ClipClient, AsyncClipClient])
@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://127.0.0.1:8000", "not a gRPC address. Write host:port"),
        ("https://example.org", "not a gRPC address"),
        ("grpc://127.0.0.1:8001", "not a gRPC address"),
        ("127.0.0.1", "has no port"),
        ("localhost:", "has no port"),
        ("::1:8001", r"in brackets: \[::1\]:8001"),
        ("dns:///", "has no host name"),
        ("127.0.0.1:port", "has no port"),
        ("", "has no port"),
    ],
)
def test_an_address_that_is_not_grpcs_is_named_at_once(client: Any, url: str, said: str) -> None:
    with pytest.raises(ServerUnavailable, match=said):
        client(url)


@pytest.mark.parametrize(
    "url", ["dns:///photos:8001", "[::1]:8001", "unix:/tmp/photos", "ipv4:127.0.0.1:8001"]
)
def test_grpcs_own_addresses_are_taken(url: str) -> None:
    ClipClient(url).close()
    ClipClient("photos.example.org", connection=ConnectionOptions(ssl=True)).close()
