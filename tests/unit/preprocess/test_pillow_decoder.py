"""Headers, limits and Pillow's part of decoding; each broken file's code: test_preprocess_quality.py."""

from __future__ import annotations

import warnings

import pytest
from PIL import Image

from clip_preprocess import pillow_decoder
from clip_preprocess.errors import ErrorCode, ItemError
from clip_preprocess.formats import Format, sniff
from clip_preprocess.pillow_decoder import check, decode
from clip_preprocess.settings import DecodeLimits, PreprocessSettings
from testing.pictures import (
    corrupt_pictures,
    encoded,
    jpeg_with_sides,
    noise,
    odd_pictures,
    other_formats,
    png_header_only,
    source_picture,
)

LIMITS = DecodeLimits()
CORRUPT = corrupt_pictures()
OTHERS = other_formats()
SOUND = odd_pictures() | OTHERS


def decoded(data: bytes | memoryview, limits: DecodeLimits = LIMITS) -> Image.Image:
    settings = PreprocessSettings((224, 224), limits=limits)
    return decode(data, check(data, settings), settings)[0]


@pytest.mark.parametrize("make", [jpeg_with_sides, None])
def test_a_promise_of_40_megapixels_costs_nothing(make: object, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "jpeg_40_megapixels_no_data" if make else "png_40_megapixels_no_data"
    monkeypatch.setattr(pillow_decoder, "_open", None)  # calling it would be a TypeError
    with pytest.raises(ItemError, match="8000x5000") as caught:
        decoded(CORRUPT[name][0])
    assert caught.value.code is ErrorCode.TRUNCATED


def test_texts_name_format_size_and_cause() -> None:
    with pytest.raises(ItemError, match=r"^PNG 451x300: the checksum of its IDAT chunk is wrong$"):
        decoded(CORRUPT["png_bit_flips"][0])


@pytest.mark.parametrize("name", SOUND)
def test_sound_files_are_whole_pictures(name: str) -> None:
    picture = decoded(SOUND[name])
    assert min(picture.size) >= 1
    assert picture.im is not None


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("lossy.webp", Format.WEBP),
        ("animated.gif", Format.GIF),
        ("picture.bmp", Format.BMP),
        ("picture.tiff", Format.TIFF),
        ("picture.avif", Format.AVIF),
        ("stereo.mpo", Format.JPEG),
        ("animated.png", Format.PNG),
    ],
)
def test_the_content_tells_the_format(name: str, kind: Format) -> None:
    assert sniff(OTHERS[name]) is kind


def test_heic_is_told_apart_from_avif() -> None:
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40)
    assert sniff(heic) is Format.HEIC
    assert sniff(heic.replace(b"heic", b"avif")) is Format.AVIF
    assert sniff(b"\0\0\0\x18ftypisom\0\0\0\0isommp42") is None


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
        decoded(encoded(Image.new("1", (pillow_decoder.MAX_SIDE + 1, 1)), "PNG"))
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
