"""Odd files of every format, in all qualities: their pixels, their notices, their errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from clip_preprocess import (
    ErrorCode,
    ItemError,
    NoticeCode,
    Outcome,
    Preprocessor,
    PreprocessSettings,
    preprocess_one,
)
from testing.odd_files import animations, broken_files, named_files, odd_files
from testing.odd_jpegs import broken_jpegs, odd_jpegs, unsupported_jpegs
from testing.pictures import encoded, source_picture
from testing.tiffs import camera_raw_tiffs, odd_tiffs, picture, tiff_file, undecodable_tiffs, wide_pictures

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")
QUALITIES: tuple[Any, ...] = ("exact", "high", "fast")
ODD = odd_files() | odd_tiffs() | odd_jpegs()
BROKEN = broken_files() | broken_jpegs()
NAMED = named_files() | unsupported_jpegs() | camera_raw_tiffs() | undecodable_tiffs()
WIDE, ANIMATIONS = wide_pictures(), animations()


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("quality", QUALITIES)
@pytest.mark.parametrize("allow_truncated", [False, True])
def test_whole_pictures_are_embedded(name: str, quality: Any, allow_truncated: bool) -> None:
    odd = ODD[name]
    settings = PreprocessSettings((64, 64), quality=quality, allow_truncated=allow_truncated)
    rows = np.zeros((2, 64, 64, 3), np.uint8)
    outcome, clean = Preprocessor(settings).run([odd.data, odd.like], rows)
    assert clean.error is None
    assert outcome.error is None, outcome.error
    assert [notice.code.value for notice in outcome.notices] == ([odd.notice] if odd.notice else [])
    np.testing.assert_array_equal(rows[0], rows[1])


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("quality", QUALITIES)
def test_a_missing_pixel_is_an_error(name: str, quality: Any) -> None:
    data, code = BROKEN[name]
    with pytest.raises(ItemError) as caught:
        preprocess_one(data, PreprocessSettings((64, 64), quality=quality))
    assert caught.value.code.value == code, caught.value.text


@pytest.mark.parametrize("name", NAMED)
def test_what_is_not_decoded_is_named(name: str) -> None:
    data, part = NAMED[name]
    with pytest.raises(ItemError) as caught:
        preprocess_one(data, PreprocessSettings((64, 64)))
    assert caught.value.code is ErrorCode.UNSUPPORTED_FORMAT, caught.value.text
    assert part in caught.value.text


def run(data: bytes, quality: Any) -> tuple[Outcome, npt.NDArray[np.uint8]]:
    rows = np.zeros((1, 64, 64, 3), np.uint8)
    (outcome,) = Preprocessor(PreprocessSettings((64, 64), quality=quality)).run([data], rows)
    assert outcome.error is None, outcome.error
    row: npt.NDArray[np.uint8] = rows[0]
    return outcome, row


@pytest.mark.parametrize("quality", ["high", "fast"])
@pytest.mark.parametrize("name", WIDE)
def test_gray_values_are_scaled_to_8_bits(name: str, quality: Any) -> None:
    data, of_8_bits = WIDE[name]
    outcome, row = run(data, quality)
    assert outcome.notices == ()
    np.testing.assert_array_equal(row, run(of_8_bits, quality)[1])


@pytest.mark.parametrize("name", WIDE)
def test_exact_clips_gray_values_as_open_clip_does(name: str) -> None:
    outcome, _ = run(WIDE[name][0], "exact")
    codes = [notice.code for notice in outcome.notices if notice.code is not NoticeCode.SINGLE_COLOR]
    fits = name in ("32_bits_of_8.tiff", "signed_16_bits_of_8.tiff", "float_0_to_255.tiff")
    assert codes == ([] if fits else [NoticeCode.CLIPPED_RANGE])


def test_nan_alone_is_black() -> None:
    nothing = tiff_file(picture(np.full((9, 9), np.nan, np.float32)))
    outcome, row = run(nothing, "high")
    assert not row.any()
    assert [notice.code for notice in outcome.notices] == [NoticeCode.SINGLE_COLOR]


@pytest.mark.parametrize("quality", QUALITIES)
@pytest.mark.parametrize("name", ANIMATIONS)
def test_a_blank_first_frame_gives_way_to_the_first_with_content(name: str, quality: Any) -> None:
    animation, wanted, blank = ANIMATIONS[name]
    outcome, row = run(animation, quality)
    codes = [notice.code for notice in outcome.notices if notice.code is not NoticeCode.SINGLE_COLOR]
    assert codes == [NoticeCode.OTHER_PICTURE]
    expected = run(blank if quality == "exact" else wanted, quality)[1]
    assert (
        np.abs(row.astype(int) - expected).mean() < 8
    )  # frames are compressed again; cat and canvas differ by 90


@pytest.mark.parametrize("length", range(1, 11))
def test_a_blank_gif_may_be_cut_anywhere_in_its_second_frame(length: int) -> None:
    blank = encoded(Image.new("P", (90, 60), 3), "GIF")
    data = blank[:-1] + b",\0\0\0\0\5\0\5\0\0\2"[:length]
    (outcome,) = Preprocessor(PreprocessSettings((64, 64))).run([data], np.zeros((1, 64, 64, 3), np.uint8))
    assert outcome.error is None
    assert "missing_end" in [notice.code.value for notice in outcome.notices]


@pytest.mark.parametrize("progressive", [False, True])
def test_stray_bytes_at_the_end_of_a_large_photo_change_no_pixel(progressive: bool) -> None:
    photo = encoded(source_picture("astronaut.png").resize((2560, 1920)), "JPEG", progressive=progressive)
    odd = photo[:-2] + bytes.fromhex("123456789a1011") + photo[-2:]
    rows = np.zeros((2, 64, 64, 3), np.uint8)
    outcome, _ = Preprocessor(PreprocessSettings((64, 64), quality="high")).run([odd, photo], rows)
    assert [notice.code for notice in outcome.notices] == [NoticeCode.STRAY_BYTES], outcome.error
    np.testing.assert_array_equal(rows[0], rows[1])
