"""What a real bucket lists and loads: compressed objects, names that end in a slash, one whole name."""

from __future__ import annotations

import gzip
import uuid
import zlib

import pytest

from clip_client import ItemError, SourceError, open_source
from clip_client.sources.gcs import GcsSource
from clip_client.stream import load
from testing.fake_gcs import FakeGcs
from testing.pictures import encoded, noise


def photo(seed: int) -> bytes:
    return encoded(noise(300, 260, seed=seed), "JPEG")


def uploaded(fake_gcs: FakeGcs, objects: dict[str, tuple[bytes, str | None]]) -> GcsSource:
    """A new bucket of objects, each with its Content-Encoding."""
    bucket = fake_gcs.client.create_bucket(f"stored-{uuid.uuid4().hex[:8]}")
    for name, (data, encoding) in objects.items():
        blob = bucket.blob(name)
        blob.content_encoding = encoding
        blob.upload_from_string(data, content_type="image/jpeg")
    return GcsSource(bucket.name)


def test_objects_stored_as_gzip(fake_gcs: FakeGcs) -> None:
    """`gcloud storage cp --gzip-local-all` stores photos compressed; the listing has the compressed size."""
    packed = gzip.compress(photo(0))
    stored = {
        "bomb.jpg": gzip.compress(bytes((1 << 20) + 1)),
        "cut.jpg": packed[: len(packed) // 2],
        "misnamed.jpg": photo(1),
        "packed.jpg": packed,
        "rotten.jpg": packed[:100] + bytes([packed[100] ^ 1]) + packed[101:],
        "twice.jpg": gzip.compress(photo(2)[:500]) + gzip.compress(photo(2)[500:]),
    }
    source = uploaded(fake_gcs, {name: (data, "gzip") for name, data in stored.items()})
    loaded: dict[str, bytes | str] = {}
    for item in source.list():
        assert (item.size, item.content_encoding) == (len(stored[item.name]), "gzip")
        try:
            loaded[item.name] = load(source, item, 1 << 20)[1]
        except ItemError as error:
            loaded[item.name] = error.code
    assert loaded == {
        "bomb.jpg": "too_many_bytes",
        "cut.jpg": "load_failed",
        "misnamed.jpg": photo(1),
        "packed.jpg": photo(0),
        "rotten.jpg": "load_failed",
        "twice.jpg": photo(2),
    }


def test_objects_stored_under_other_encodings(fake_gcs: FakeGcs) -> None:
    """What each object is, as its loaded bytes are those of a photo."""
    source = uploaded(
        fake_gcs,
        {
            "a": (gzip.compress(photo(0)), "GZIP"),
            "b": (zlib.compress(photo(0)), "deflate"),
            "c": (photo(0), "br"),
            "d": (b"\x1b" + bytes(99), "br"),
            "e": (gzip.compress(photo(0)) + b"trailing", "gzip"),
        },
    )
    loaded = {}
    for item in source.list():
        try:
            loaded[item.name] = load(source, item, 1 << 20)[1]
        except ItemError as error:
            loaded[item.name] = error.code.encode()
    assert loaded == {**dict.fromkeys("abce", photo(0)), "d": b"unsupported_encoding"}


def test_names_that_end_in_a_slash(fake_gcs: FakeGcs) -> None:
    source = uploaded(fake_gcs, {"a/": (b"", None), "a/b/": (photo(0), None), "a/c": (b"", None)})
    assert [item.name for item in source.list()] == ["a/b/", "a/c"]
    assert source.placeholders == 1
    assert source.load(next(source.list())) == photo(0)


def test_the_whole_name_of_an_object_is_that_object(fake_gcs: FakeGcs) -> None:
    source = uploaded(fake_gcs, dict.fromkeys(("a.jpg", "a.jpg.old", "b/c.jpg", "[b].jpg"), (photo(0), None)))
    for prefix, names in (
        ("a.jpg", ["a.jpg"]),
        ("a.", ["a.jpg", "a.jpg.old"]),
        ("b", ["b/c.jpg"]),
        ("[b].jpg", ["[b].jpg"]),
    ):
        part = open_source(f"{source.uri}/{prefix}")
        part.check()
        assert [item.name for item in part.list()] == names
        assert [name for name in ("a.jpg", "a.jpg.old") if part.covers(name)] == [
            name for name in names if name[0] == "a"
        ]
    pattern = open_source(f"{source.uri}/*.jpg")
    with pytest.raises(SourceError, match=r"Patterns are not expanded: give gs://\S+/ with --include"):
        pattern.check()
