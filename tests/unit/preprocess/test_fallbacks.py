"""Without Pillow's internals and without the `fast` extra: the same pixels, or nearly, and only slower."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from clip_preprocess import PreprocessSettings, jpeg_turbo, preprocess_one, resizer
from testing.pictures import camera_photos, encoded, noise, odd_pictures

JPEGS = {name: data for name, data in odd_pictures().items() if name.endswith(".jpg")}
JPEGS |= {f"camera_{index}.jpg": photo for index, photo in enumerate(camera_photos(3, seed=4))}
EXACT = PreprocessSettings((224, 224))
HIGH = PreprocessSettings((224, 224), quality="high")


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("convert", [jpeg_turbo._share, jpeg_turbo._copy])
def test_both_ways_to_a_picture_are_the_same(convert: Any, channels: int) -> None:
    pixels: npt.NDArray[np.uint8] = np.random.default_rng(0).integers(0, 256, (50, 31, channels), np.uint8)
    picture = convert(pixels)
    assert picture.mode == ("L" if channels == 1 else "RGB")
    bands = pixels[..., :3].reshape(50, 31, -1).squeeze()
    np.testing.assert_array_equal(np.asarray(picture), bands)
    resized = picture.resize((7, 9), Image.Resampling.BICUBIC)
    wanted = Image.fromarray(bands).resize((7, 9), Image.Resampling.BICUBIC)
    assert resized.tobytes() == wanted.tobytes()


def test_a_shared_picture_keeps_its_memory() -> None:
    """Memory that is freed too early would be overwritten by the arrays that follow."""
    pictures = [jpeg_turbo._share(np.full((64, 64, 4), value, np.uint8)) for value in range(50)]
    for value, picture in enumerate(pictures):
        assert picture.getextrema() == ((value, value),) * 3


@pytest.mark.parametrize("settings", [EXACT, HIGH])
def test_pixels_do_not_depend_on_pillows_internals(
    settings: PreprocessSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = {name: preprocess_one(data, settings) for name, data in JPEGS.items()}
    monkeypatch.setattr(jpeg_turbo, "to_picture", jpeg_turbo._copy)
    for name, data in JPEGS.items():
        np.testing.assert_array_equal(preprocess_one(data, settings), expected[name], err_msg=name)


def test_this_pillow_shares_memory() -> None:
    """A new Pillow that no longer does costs time on every photo: this test says so."""
    assert jpeg_turbo.to_picture is jpeg_turbo._share


@pytest.mark.parametrize(
    "broken",
    ["lambda *_: 1 / 0", "lambda pixels, size, *_: Image.new('RGB', size).im"],
    ids=["gone", "changed"],
)
def test_internals_that_fail_are_not_used(broken: str) -> None:
    script = (
        "from PIL import Image\n"
        f"Image.core.map_buffer = {broken}\n"
        "from clip_preprocess import jpeg_turbo\n"
        "assert jpeg_turbo.to_picture is jpeg_turbo._copy\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_without_the_fast_extra_pillow_resizes() -> None:
    script = (
        "import sys\n"
        "sys.modules['cykooz_resizer'] = None\n"
        "from clip_preprocess import resizer\n"
        "assert resizer.fast_resize is resizer.pillow_resize\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_pillow_is_at_least_as_near_to_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    photos = camera_photos(4, seed=7)
    exact = np.stack([preprocess_one(photo, EXACT) for photo in photos]).astype(int)
    fast = np.stack([preprocess_one(photo, HIGH) for photo in photos])
    monkeypatch.setattr(resizer, "fast_resize", resizer.pillow_resize)
    pillow = np.stack([preprocess_one(photo, HIGH) for photo in photos])
    assert np.abs(pillow - exact).mean() <= np.abs(fast - exact).mean()


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_the_fast_resize_is_pillows(mode: str, interpolation: Any) -> None:
    picture, box = noise(501, 333).convert(mode), (10.25, 3.5, 490.75, 330.0)
    fast = np.asarray(resizer.fast_resize(picture, (60, 41), box, interpolation)).astype(int)
    pillow = np.asarray(resizer.pillow_resize(picture, (60, 41), box, interpolation))
    assert np.abs(fast - pillow).mean() < 0.3


@pytest.mark.parametrize("mode", ["P", "RGBA", "CMYK", "1", "I;16"])
def test_other_modes_are_resized_by_pillow(mode: str) -> None:
    picture = Image.new(mode, (40, 30)) if mode == "I;16" else noise(40, 30).convert(mode)
    box = (1.5, 2.0, 39.0, 29.5)
    fast = resizer.fast_resize(picture, (10, 8), box, "bicubic")
    assert fast.tobytes() == resizer.pillow_resize(picture, (10, 8), box, "bicubic").tobytes()


def test_nearest_is_resized_by_pillow() -> None:
    photo = encoded(noise(3000, 2000), "JPEG")
    settings = PreprocessSettings((224, 224), "nearest", quality="high")
    assert preprocess_one(photo, settings).shape == (224, 224, 3)
