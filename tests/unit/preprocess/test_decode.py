"""Formats, headers, limits and decoding; the error code of each broken file is in test_quality.py."""

from __future__ import annotations

import warnings
from dataclasses import replace

import pytest
from PIL import Image

from clip_preprocess import jpeg_turbo, pillow_decoder, pipeline
from clip_preprocess.errors import ErrorCode, ItemError
from clip_preprocess.formats import FORMATS, sniff
from clip_preprocess.limits import MAX_SIDE
from clip_preprocess.settings import DecodeLimits, PreprocessSettings
from testing.pictures import (
    corrupt_pictures,
    encoded,
    noise,
    odd_pictures,
    other_formats,
    png_header_only,
    source_picture,
)

LIMITS = DecodeLimits()
SETTINGS = PreprocessSettings((224, 224))
CORRUPT = corrupt_pictures()
OTHERS = other_formats()
SOUND = odd_pictures() | OTHERS


def decoded(data: bytes | memoryview, limits: DecodeLimits = LIMITS) -> Image.Image:
    settings = PreprocessSettings((224, 224), limits=limits)
    return pipeline._decode(data, *pipeline._check(data, sniff(data), settings), settings).picture


def name_of(data: bytes) -> str:
    found = sniff(data)
    return found.name if found else ""


@pytest.mark.parametrize("name", ["jpeg_40_megapixels_no_data", "png_40_megapixels_no_data"])
def test_a_header_claiming_40_megapixels_costs_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pillow_decoder, "_open", None)  # calling these would be a TypeError
    monkeypatch.setattr(jpeg_turbo, "decode", None)
    with pytest.raises(ItemError, match="8000x5000") as caught:
        decoded(CORRUPT[name][0])
    assert caught.value.code is ErrorCode.TRUNCATED


def test_texts_name_format_size_and_cause() -> None:
    with pytest.raises(ItemError, match=r"^PNG 451x300: the checksum of its IDAT chunk is wrong$"):
        decoded(CORRUPT["png_bit_flips"][0])


@pytest.mark.parametrize("name", SOUND)
def test_intact_files_are_complete_pictures(name: str) -> None:
    picture = decoded(SOUND[name])
    assert min(picture.size) >= 1
    assert picture.im is not None


@pytest.mark.parametrize(
    ("name", "format_name"),
    [
        ("lossy.webp", "WebP"),
        ("animated.gif", "GIF"),
        ("picture.bmp", "BMP"),
        ("picture.tiff", "TIFF"),
        ("picture.avif", "AVIF"),
        ("picture.heic", "HEIC"),
        ("stereo.mpo", "JPEG"),
        ("animated.png", "PNG"),
    ],
)
def test_the_format_is_recognized_by_content(name: str, format_name: str) -> None:
    assert name_of(OTHERS[name]) == format_name


def test_heic_is_distinguished_from_avif() -> None:
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40)
    assert name_of(heic) == "HEIC"
    assert name_of(heic.replace(b"heic", b"avif")) == "AVIF"
    assert name_of(b"\0\0\0\x18ftypisom\0\0\0\0isommp42") == ""


@pytest.mark.parametrize("kind", FORMATS, ids=lambda kind: kind.name)
def test_every_format_of_the_table_has_an_intact_file(kind: object) -> None:
    """Each is then compared with open_clip and mutated by the fuzzer, which use these files."""
    assert any(sniff(data) is kind for data in SOUND.values())


def test_a_format_without_its_library_is_unsupported() -> None:
    kind = sniff(OTHERS["picture.heic"])
    assert kind is not None
    with pytest.raises(ItemError, match="pip install") as caught:
        pillow_decoder.decode(OTHERS["picture.heic"], replace(kind, open=None), None, SETTINGS)
    assert caught.value.code is ErrorCode.UNSUPPORTED_FORMAT


def test_limit_of_bytes_comes_first() -> None:
    with pytest.raises(ItemError, match="limit is 100") as caught:
        decoded(bytes(101), DecodeLimits(max_bytes=100))
    assert caught.value.code is ErrorCode.TOO_MANY_BYTES


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_limit_of_pixels_for_every_format(format_name: str) -> None:
    data = encoded(source_picture("chelsea.png"), format_name)
    size = 451 * 300
    assert decoded(data, DecodeLimits(max_pixels=size)).size == (451, 300)
    with pytest.raises(ItemError, match="451x300") as caught:
        decoded(data, DecodeLimits(max_pixels=size - 1))
    assert caught.value.code is ErrorCode.TOO_MANY_PIXELS


def test_pillows_own_limit_does_not_leak() -> None:
    """95 megapixels are within our limit and beyond the one that Pillow warns of."""
    data = encoded(Image.new("1", (10_000, 9_500)), "PNG")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decoded(data).size == (10_000, 9_500)


def test_a_side_has_a_limit_of_its_own() -> None:
    with pytest.raises(ItemError) as caught:
        decoded(encoded(Image.new("1", (MAX_SIDE + 1, 1)), "PNG"))
    assert caught.value.code is ErrorCode.TOO_MANY_PIXELS


def test_views_decode_like_bytes() -> None:
    data = encoded(noise(40, 30), "PNG")
    framed = memoryview(b"1234" + data + b"5678")[4:-4]
    assert decoded(framed).tobytes() == decoded(data).tobytes()


def test_data_after_the_end_of_a_jpeg_is_ignored() -> None:
    data = encoded(source_picture("chelsea.png"), "JPEG")
    assert decoded(data + bytes(200_000)).tobytes() == decoded(data).tobytes()


@pytest.mark.parametrize(("width", "height"), [(0, 5), (5, 0)])
def test_zero_sides_are_corrupt(width: int, height: int) -> None:
    with pytest.raises(ItemError) as caught:
        decoded(png_header_only(width, height))
    assert caught.value.code is ErrorCode.CORRUPT
