"""Transparent pictures: as open_clip sees them, or on a background."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from clip_preprocess import NoticeCode, Outcome, Preprocessor, PreprocessSettings, SettingsError
from clip_preprocess.resample import Pixels
from testing.pictures import encoded, odd_pictures, other_formats
from testing.transparent import with_a_color_key, with_alpha

ALPHA = with_alpha()
KEYED = with_a_color_key()
OPAQUE = {
    name: data
    for name, data in (odd_pictures() | other_formats()).items()
    if not any(word in name for word in ("alpha", "rgba", "transparent"))
}


def pixels_of(photo: bytes, **settings: Any) -> tuple[Outcome, Pixels]:
    rows = np.empty((1, 48, 48, 3), np.uint8)
    (outcome,) = Preprocessor(PreprocessSettings((48, 48), **settings)).run([photo], rows)
    assert outcome.error is None
    return outcome, rows[0]


@pytest.mark.parametrize("quality", ["exact", "high", "fast"])
@pytest.mark.parametrize("resize_mode", ["shortest", "longest"])
@pytest.mark.parametrize("name", ALPHA | KEYED)
def test_the_background_is_behind_the_picture(name: str, quality: Any, resize_mode: Any) -> None:
    options = {"quality": quality, "resize_mode": resize_mode, "background": "#ff8000"}
    outcome, pixels = pixels_of((ALPHA | KEYED)[name], **options)
    clipped = quality == "exact" and name == "grey_16_bits.png"
    assert [notice.code for notice in outcome.notices] == [NoticeCode.CLIPPED_RANGE] * clipped
    np.testing.assert_allclose(pixels[:8].astype(int), np.broadcast_to((255, 128, 0), (8, 48, 3)), atol=3)
    np.testing.assert_allclose(pixels[20:28, 20:28].astype(int), np.zeros((8, 8, 3)), atol=3)


@pytest.mark.parametrize("name", ALPHA)
def test_a_dark_logo_without_a_background_has_one_color(name: str) -> None:
    outcome, pixels = pixels_of(ALPHA[name])
    assert not pixels.any()
    (notice,) = outcome.notices
    assert notice.code is NoticeCode.SINGLE_COLOR
    assert "all pixels are #000000" in notice.text
    assert "transparent, and the setting background is none" in notice.text


@pytest.mark.parametrize("quality", ["exact", "high"])
@pytest.mark.parametrize("color", ["white", "#123456"])
def test_a_picture_of_one_color_has_a_notice(color: str, quality: Any) -> None:
    outcome, _ = pixels_of(encoded(Image.new("RGB", (100, 60), color), "PNG"), quality=quality)
    (notice,) = outcome.notices
    assert notice.code is NoticeCode.SINGLE_COLOR
    shown = "#ffffff" if color == "white" else color
    assert notice.text == f"all pixels are {shown} after preprocessing"


def test_one_other_pixel_is_enough() -> None:
    picture = Image.new("RGB", (48, 48), "white")
    picture.putpixel((47, 47), (254, 255, 255))
    assert pixels_of(encoded(picture, "PNG"))[0].notices == ()


@pytest.mark.parametrize("quality", ["exact", "high"])
@pytest.mark.parametrize("name", OPAQUE)
def test_opaque_pictures_do_not_change(name: str, quality: Any) -> None:
    _, plain = pixels_of(OPAQUE[name], quality=quality)
    _, pixels = pixels_of(OPAQUE[name], quality=quality, background="white")
    np.testing.assert_array_equal(pixels, plain)


@pytest.mark.parametrize(
    ("given", "normalized"),
    [("none", "none"), ("#FFFFFF", "#ffffff"), ("#abc", "#aabbcc"), ("white", "#ffffff")],
)
def test_colors_have_one_form(given: str, normalized: str) -> None:
    settings = PreprocessSettings((48, 48), background=given)
    assert settings.background == normalized
    assert PreprocessSettings.from_parameters(settings.to_parameters()) == settings


@pytest.mark.parametrize("given", ["#ffffff80", "transparent", "", "#12345", "ffffff", "null", None, 5])
def test_other_backgrounds_are_refused(given: Any) -> None:
    with pytest.raises(SettingsError, match="unsupported setting"):
        PreprocessSettings((48, 48), background=given)
