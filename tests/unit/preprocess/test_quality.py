"""The faster qualities: close to `exact` in every orientation and shape, and rejecting the same files."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from clip_preprocess import (
    DecodeLimits,
    ErrorCode,
    ItemError,
    NoticeCode,
    Preprocessor,
    PreprocessSettings,
    exif,
    jpeg,
    preprocess_one,
)
from testing.pictures import (
    camera_photos,
    corrupt_pictures,
    encoded,
    jpeg_with_sides,
    noise,
    odd_pictures,
    oriented,
    other_formats,
    scan_bomb,
    source_picture,
)

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")
EXACT = PreprocessSettings((224, 224))
HIGH = PreprocessSettings((224, 224), quality="high")
FAST = PreprocessSettings((224, 224), quality="fast")
CAMERA = camera_photos(10, seed=7)
CORRUPT = corrupt_pictures()
SOUND = odd_pictures() | other_formats()


def mean_difference(photo: bytes, settings: PreprocessSettings, exact: PreprocessSettings = EXACT) -> float:
    pixels, wanted = preprocess_one(photo, settings), preprocess_one(photo, exact)
    return float(np.abs(pixels.astype(int) - wanted).mean())


@pytest.mark.parametrize(("settings", "most"), [(HIGH, 0.3), (FAST, 0.7)])
def test_near_exact_on_camera_photos(settings: PreprocessSettings, most: float) -> None:
    differences = [mean_difference(photo, settings) for photo in CAMERA]
    assert 0 < np.mean(differences) <= most
    assert max(differences) <= 3 * most


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(1501, 1000), (900, 1403), (1344, 1344)])
def test_near_exact_in_every_orientation(orientation: int, size: tuple[int, int]) -> None:
    """An odd margin shows a crop that is turned after its corner was rounded."""
    photo = oriented(source_picture("coffee.png").resize(size), orientation)
    assert mean_difference(photo, HIGH) < 0.4


@pytest.mark.parametrize("resize_mode", ["squash", "longest", "shortest"])
@pytest.mark.parametrize("image_size", [(224, 224), (160, 224), (336, 240)])
@pytest.mark.parametrize("orientation", [1, 6])
def test_near_exact_in_every_mode(resize_mode: Any, image_size: tuple[int, int], orientation: int) -> None:
    exact = PreprocessSettings(image_size, "bilinear", resize_mode, fill_color=90)
    high = PreprocessSettings(image_size, "bilinear", resize_mode, fill_color=90, quality="high")
    photo = oriented(source_picture("coffee.png").resize((1501, 1000)), orientation)
    assert mean_difference(photo, high, exact) < 0.4


@pytest.mark.parametrize(
    "name", sorted(set(SOUND) - {"sixteen_bit.png"})
)  # scaled to 8 bits, except by `exact`
def test_odd_pictures_have_pixels(name: str) -> None:
    hard = ("noise" in name) or (name in ("1xn.png", "3xn.jpg", "nx1.png", "223x225.png"))
    assert mean_difference(SOUND[name], HIGH) < (12 if hard else 1)


@pytest.mark.parametrize("settings", [EXACT, HIGH, FAST])
@pytest.mark.parametrize("name", CORRUPT)
def test_broken_files_are_rejected_alike(name: str, settings: PreprocessSettings) -> None:
    data, code = CORRUPT[name]
    with pytest.raises(ItemError) as caught:
        preprocess_one(data, settings)
    assert caught.value.code.value == code
    assert caught.value.wire() == f"{code}: {caught.value.text}"


@pytest.mark.parametrize(("side", "scale"), [(672 * 8, 8), (5375, 4), (1344, 2), (1343, 1), (100, 1)])
def test_the_scale_keeps_three_times_the_target(side: int, scale: int) -> None:
    # libjpeg rounds up: sides that just miss a multiple are long enough.
    assert jpeg.scale_of((side * 2, side), HIGH) in (scale, scale * 2)


def test_a_scaled_photo_may_declare_more_than_is_decoded() -> None:
    photo = CAMERA[0]
    with Image.open(io.BytesIO(photo)) as picture:
        pixels = picture.width * picture.height
    limits = DecodeLimits(max_pixels=pixels // 3)
    with pytest.raises(ItemError, match="limit is") as caught:
        preprocess_one(photo, PreprocessSettings((64, 64), limits=limits))
    assert caught.value.code is ErrorCode.TOO_MANY_PIXELS
    preprocess_one(photo, PreprocessSettings((64, 64), limits=limits, quality="high"))


@pytest.mark.parametrize("quality", ["exact", "high"])
@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "GIF", "TIFF"])
def test_truncated_photos_are_kept_with_a_notice_on_request(quality: Any, format_name: str) -> None:
    settings = PreprocessSettings((224, 224), quality=quality, allow_truncated=True)
    whole = encoded(source_picture("coffee.png"), format_name)
    rows = np.zeros((2, 224, 224, 3), np.uint8)
    sound, cut = Preprocessor(settings).run([whole, whole[: len(whole) * 3 // 4]], rows)
    assert (sound.error, sound.notices) == (None, ())
    assert cut.error is None
    assert [notice.code for notice in cut.notices] == [NoticeCode.TRUNCATED]
    np.testing.assert_allclose(rows[1, :80], rows[0, :80], atol=2)


@pytest.mark.parametrize("length", [0.3, 0.7, 0.95])
@pytest.mark.parametrize("name", other_formats())
def test_a_cut_file_of_any_format_has_pixels_or_an_error(name: str, length: float) -> None:
    data = SOUND[name]
    settings = PreprocessSettings((64, 64), allow_truncated=True)
    rows = np.full((1, 64, 64, 3), 7, np.uint8)
    (outcome,) = Preprocessor(settings).run([data[: int(len(data) * length)]], rows)
    if outcome.error is not None:
        assert outcome.error.code in (ErrorCode.TRUNCATED, ErrorCode.CORRUPT)
    assert outcome.valid or not rows.any()


def test_scans_are_limited_by_the_pixels_that_they_pass_over() -> None:
    progressive = encoded(source_picture("chelsea.png"), "JPEG", progressive=True)
    preprocess_one(scan_bomb(progressive, 30), EXACT)
    with pytest.raises(ItemError, match="more than 20 scans") as caught:
        preprocess_one(jpeg_with_sides(scan_bomb(progressive, 30), 10_000, 10_000), EXACT)
    assert caught.value.code is ErrorCode.TOO_COMPLEX


def test_padding_before_the_end_marker_is_no_damage() -> None:
    photo = encoded(noise(64, 64), "JPEG")
    padded = photo[:-2] + bytes(32) + photo[-2:]
    np.testing.assert_array_equal(preprocess_one(padded, EXACT), preprocess_one(photo, EXACT))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_matches_pillow(orientation: int) -> None:
    """Pillow's exif_transpose is the reference; a box may be cut out before or after it."""
    stored = noise(7, 5)
    with Image.open(io.BytesIO(oriented(stored, orientation, "PNG"))) as file:
        seen = ImageOps.exif_transpose(file)
    assert exif.turned(stored, orientation).tobytes() == seen.tobytes()
    assert exif.seen_size(stored.size, orientation) == seen.size
    box = exif.stored_box((1, 2, 3, 4), stored.size, orientation)
    cut = exif.turned(stored.crop(box), orientation)
    assert cut.tobytes() == seen.crop((1, 2, 3, 4)).tobytes()
