"""Bit for bit: our pixels against those of open_clip's own transform, without its tensor part."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from open_clip.transform import image_transform
from PIL import Image

from clip_preprocess import PreprocessSettings, preprocess_one
from testing.odd_files import animations
from testing.pictures import camera_photos, encoded, noise, odd_pictures, other_formats
from testing.tiffs import wide_pictures
from testing.transparent import with_a_color_key, with_alpha
from tests.golden.reference import reference

# The reference warns about palettes with transparency, which both ignore.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")

PICTURES = odd_pictures() | other_formats()
PICTURES |= {name: data for name, (data, _) in wide_pictures().items() if name != "float_with_nan.tiff"}
PICTURES |= {f"animation_{name}": data for name, (data, *_) in animations().items()}
PICTURES |= {f"camera_{index}.jpg": photo for index, photo in enumerate(camera_photos(6, seed=3))}
UPRIGHT = [(300, 301), (300, 399), (431, 640), (300, 599), (300, 600), (300, 601), (300, 900), (90, 170)]
"""Sizes around those at which the resizing changes its method."""


@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.parametrize("resize_mode", ["shortest", "squash", "longest"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_square(name: str, resize_mode: Any, interpolation: Any) -> None:
    settings = PreprocessSettings(
        (224, 224), resize_mode=resize_mode, interpolation=interpolation, fill_color=127
    )
    np.testing.assert_array_equal(
        preprocess_one(PICTURES[name], settings), reference(PICTURES[name], settings, transpose=True)
    )


@pytest.mark.parametrize("resize_mode", ["shortest", "squash", "longest"])
@pytest.mark.parametrize("image_size", [(256, 256), (160, 224), (336, 240)])
def test_other_targets(image_size: tuple[int, int], resize_mode: Any) -> None:
    settings = PreprocessSettings(image_size, resize_mode=resize_mode, interpolation="bilinear")
    for name, data in PICTURES.items():
        np.testing.assert_array_equal(
            preprocess_one(data, settings), reference(data, settings, transpose=True), err_msg=name
        )


@pytest.mark.parametrize("size", UPRIGHT)
@pytest.mark.parametrize("channels", [1, 3])
def test_upright_noise(size: tuple[int, int], channels: int) -> None:
    settings = PreprocessSettings((224, 224))
    photo = encoded(noise(*size, channels), "JPEG")
    np.testing.assert_array_equal(preprocess_one(photo, settings), reference(photo, settings, transpose=True))


def test_orientation_is_ignored_on_request() -> None:
    settings = PreprocessSettings((224, 224), apply_exif_orientation=False)
    for name, data in PICTURES.items():
        np.testing.assert_array_equal(
            preprocess_one(data, settings), reference(data, settings, transpose=False), err_msg=name
        )


def test_transparency_is_ignored_without_a_background() -> None:
    settings = PreprocessSettings((224, 224))
    pictures = with_alpha() | with_a_color_key()
    del pictures["grey_times_alpha.tiff"]  # its mode has no conversion to RGB: open_clip fails
    for name, data in pictures.items():
        np.testing.assert_array_equal(
            preprocess_one(data, settings), reference(data, settings, transpose=True), err_msg=name
        )


def test_the_whole_transform_gives_the_same_tensor() -> None:
    """The steps above leave out the division by 255 and the normalization, and nothing else."""
    settings = PreprocessSettings((224, 224))
    mean, std = (0.48, 0.45, 0.40), (0.26, 0.26, 0.27)
    transform = image_transform(224, is_train=False, mean=mean, std=std)
    for data in (PICTURES["landscape.jpg"], PICTURES["palette.png"], PICTURES["camera_0.jpg"]):
        pixels = torch.from_numpy(preprocess_one(data, settings).copy()).permute(2, 0, 1)
        expected = (pixels.float().div(255) - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[
            :, None, None
        ]
        torch.testing.assert_close(transform(Image.open(io.BytesIO(data))), expected, rtol=0, atol=1e-6)
