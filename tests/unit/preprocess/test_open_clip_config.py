"""`Preprocessor` as open_clip's transform; tests/golden compares it with the real one."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from clip_preprocess import ItemError, Preprocessor, PreprocessSettings, SettingsError, preprocess_one
from testing.pictures import encoded, noise, source_picture

CONFIG = {
    "size": (160, 224),
    "mode": "RGB",
    "mean": (0.5, 0.4, 0.3),
    "std": (0.25, 0.5, 0.125),
    "interpolation": "bilinear",
    "resize_mode": "longest",
    "fill_color": 7,
}
"""As `model.visual.preprocess_cfg`."""
PHOTO = encoded(source_picture("coffee.png"), "JPEG")


def test_every_field_of_the_config_counts() -> None:
    assert Preprocessor.for_open_clip(CONFIG).settings == PreprocessSettings(
        (160, 224), interpolation="bilinear", resize_mode="longest", fill_color=7
    )


def test_missing_keys_have_open_clips_defaults() -> None:
    assert Preprocessor.for_open_clip({}).settings == PreprocessSettings((224, 224))
    assert Preprocessor.for_open_clip({"size": 336}).settings.image_size == (336, 336)
    assert Preprocessor.for_open_clip({"fill_color": (1, 1, 1)}).settings.fill_color == 1


def test_settings_can_be_overridden() -> None:
    settings = Preprocessor.for_open_clip(CONFIG, quality="high", apply_exif_orientation=False).settings
    assert (settings.quality, settings.apply_exif_orientation) == ("high", False)


@pytest.mark.parametrize(
    "config",
    [
        {"interpolation": "random"},
        {"resize_mode": "stretch"},
        {"size": None},
        {"size": (1,)},
        {"fill_color": []},
    ],
)
def test_what_is_not_supported_is_rejected(config: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match="open_clip"):
        Preprocessor.for_open_clip(config)


@pytest.mark.parametrize("config", [{"mean": [0.5, 0.5]}, {"std": None}])
def test_a_mean_that_is_not_per_channel_is_rejected(config: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match="mean and std must be three numbers each"):
        Preprocessor.for_open_clip(config)


def test_threads_must_be_positive() -> None:
    with pytest.raises(SettingsError, match="threads is 0, and must be at least 1"):
        Preprocessor.for_open_clip({}, threads=0)


def test_a_call_returns_the_normalized_pixels() -> None:
    preprocess = Preprocessor.for_open_clip(CONFIG)
    tensor = preprocess(PHOTO)
    assert tensor.shape == (3, 160, 224)
    assert tensor.dtype == np.float32
    pixels = preprocess_one(PHOTO, preprocess.settings)
    expected = (pixels / 255 - np.array(CONFIG["mean"])) / np.array(CONFIG["std"])
    np.testing.assert_allclose(tensor, expected.transpose(2, 0, 1), atol=1e-5)


def test_a_call_raises_for_a_broken_photo() -> None:
    with pytest.raises(ItemError):
        Preprocessor.for_open_clip({})(PHOTO[:1000])


def test_it_can_be_sent_to_a_data_loaders_workers() -> None:
    preprocess = Preprocessor.for_open_clip(CONFIG)
    photo = encoded(noise(40, 30), "PNG")
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(preprocess))(photo), preprocess(photo))
