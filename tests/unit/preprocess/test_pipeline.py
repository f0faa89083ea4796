"""Rows of a batch: each right, or zero with its error, whatever its neighbors are."""

from __future__ import annotations

import gc
import queue
import threading
import tracemalloc
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image

from clip_preprocess import defaults, pipeline, resample
from clip_preprocess.decoded import Decoded
from clip_preprocess.errors import ErrorCode, ItemError
from clip_preprocess.geometry import plan
from clip_preprocess.pipeline import Preprocessor, preprocess_one
from clip_preprocess.resizer import PILLOW_FILTERS
from clip_preprocess.settings import DecodeLimits, PreprocessSettings
from testing.pictures import (
    camera_photos,
    corrupt_pictures,
    encoded,
    noise,
    odd_pictures,
    oriented,
    source_picture,
)

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")
SETTINGS = PreprocessSettings((224, 224))


def empty_rows(count: int) -> npt.NDArray[np.uint8]:
    return np.full((count, 224, 224, 3), 7, np.uint8)


@pytest.mark.parametrize("threads", [1, 3])
def test_a_batch_of_good_and_bad(threads: int) -> None:
    good = list(odd_pictures().values()) + camera_photos(3, seed=1)
    bad = list(corrupt_pictures().values())
    mixed: list[tuple[bytes, str]] = []
    for index, data in enumerate(good):
        mixed += [(data, ""), bad[index % len(bad)]]
    rows = empty_rows(len(mixed))
    preprocessor = Preprocessor(SETTINGS, threads)
    outcomes = preprocessor.run([data for data, _ in mixed], rows)
    preprocessor.close()
    for (data, code), row, outcome in zip(mixed, rows, outcomes, strict=True):
        assert (outcome.error.code.value if outcome.error else "") == code
        assert outcome.valid is not bool(code)
        expected = np.zeros_like(row) if code else preprocess_one(data, SETTINGS)
        np.testing.assert_array_equal(row, expected)


def test_an_unknown_failure_stays_with_its_photo(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    good, poison = encoded(noise(30, 30), "PNG"), encoded(noise(31, 30), "PNG")

    def fit(decoded: Decoded, settings: PreprocessSettings) -> npt.NDArray[np.uint8]:
        if decoded.size[0] == 31:
            raise RuntimeError("out of cheese")
        return resample.fit(decoded, settings)

    monkeypatch.setattr(pipeline, "fit", fit)
    rows = empty_rows(3)
    first, outcome, last = Preprocessor(SETTINGS).run([good, poison, good], rows)
    assert first.error is last.error is None
    assert outcome.error is not None
    assert outcome.error.code is ErrorCode.INTERNAL
    assert "cheese" not in outcome.error.text
    assert "cheese" in caplog.text
    assert not rows[1].any()


def test_bad_photos_leave_nothing_for_the_garbage_collector() -> None:
    """Pictures would stay in memory with the errors raised over them, and a server would grow."""

    def alive() -> set[int]:
        # An idle worker of Python 3.13's thread pool holds the queue.Empty that it caught.
        found = [each for each in gc.get_objects() if isinstance(each, Image.Image | BaseException)]
        return {id(each) for each in found if not isinstance(each, queue.Empty)}

    bad = [data for data, _ in corrupt_pictures().values()]
    preprocessor = Preprocessor(SETTINGS, threads=1)
    preprocessor.run(bad, empty_rows(len(bad)))  # libraries load their parts
    gc.collect()
    gc.disable()
    try:
        before = alive()
        assert all(outcome.error for outcome in preprocessor.run(bad, empty_rows(len(bad))))
        assert alive() <= before
    finally:
        gc.enable()
        preprocessor.close()


def test_a_photo_that_takes_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its neighbors are right, and the hanging one is counted until it ends."""
    good, poison = encoded(noise(30, 30), "PNG"), encoded(noise(31, 30), "PNG")
    release = threading.Event()

    def fit(decoded: Decoded, settings: PreprocessSettings) -> npt.NDArray[np.uint8]:
        if decoded.size[0] == 31:
            release.wait()
        return resample.fit(decoded, settings)

    monkeypatch.setattr(pipeline, "fit", fit)
    limits = DecodeLimits(decode_timeout_s=1.5)
    preprocessor = Preprocessor(PreprocessSettings((224, 224), limits=limits))
    rows = empty_rows(3)
    first, outcome, last = preprocessor.run([good, poison, good], rows)
    assert preprocessor.stuck == 1
    release.set()
    preprocessor.close()
    assert first.error is last.error is None
    np.testing.assert_array_equal(rows[2], preprocess_one(good, SETTINGS))
    assert outcome.error is not None
    assert outcome.error.code is ErrorCode.DECODE_TIMEOUT
    assert "1.5 s" in outcome.error.text
    assert not outcome.valid


def test_an_outcome_says_what_the_photo_was_and_cost() -> None:
    photo, high = encoded(noise(3000, 2000), "JPEG"), PreprocessSettings((224, 224), quality="high")
    (outcome,) = Preprocessor(high).run([photo], empty_rows(1))
    assert (outcome.format, outcome.pixels) == ("JPEG", 1500 * 1000)
    assert outcome.decode_s > outcome.preprocess_s > 0


def test_an_empty_batch() -> None:
    assert Preprocessor(SETTINGS, 2).run([], empty_rows(0)) == []


@pytest.mark.parametrize("orientation", range(2, 9))
def test_orientation_is_applied_unless_switched_off(orientation: int) -> None:
    picture = source_picture("coffee.png")
    upright, turned = oriented(picture, 1, "PNG"), oriented(picture, orientation, "PNG")
    as_stored = PreprocessSettings((224, 224), apply_exif_orientation=False)
    np.testing.assert_array_equal(preprocess_one(turned, as_stored), preprocess_one(upright, SETTINGS))
    assert (preprocess_one(turned, SETTINGS) != preprocess_one(upright, SETTINGS)).any()


def test_a_strip_costs_its_crop_and_no_more() -> None:
    """Resized whole, 5000 x 3 would be 373,333 x 224: 330 MB."""
    strip = encoded(Image.new("RGB", (5000, 3), (10, 200, 30)), "PNG")
    assert len(strip) < 200
    tracemalloc.start()
    pixels = preprocess_one(strip, SETTINGS)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5_000_000
    np.testing.assert_array_equal(pixels, np.broadcast_to((10, 200, 30), (224, 224, 3)))


def test_the_crop_alone_is_close_to_the_resized_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    photo = camera_photos(1, seed=2)[0]
    whole = preprocess_one(photo, SETTINGS).astype(int)
    monkeypatch.setattr(defaults, "MAX_RESIZED_PIXELS", 0)
    assert abs(preprocess_one(photo, SETTINGS) - whole).max() <= 2


@given(
    width=st.integers(1, 300),
    ratio=st.one_of(st.just(2.0), st.floats(0.4, 3.0)),
    extra=st.integers(0, 2),
    channels=st.sampled_from([1, 3]),
    target=st.integers(1, 64),
    interpolation=st.sampled_from(["bicubic", "bilinear"]),
)
@hypothesis_settings(max_examples=150, deadline=None)
def test_exact_is_the_crop_of_the_resized_whole(
    width: int, ratio: float, extra: int, channels: int, target: int, interpolation: Any
) -> None:
    """Upright pictures are not resized whole, which must not change a pixel."""
    picture = noise(width, max(1, int(width * ratio)) + extra, channels)
    settings = PreprocessSettings((target, target), interpolation)
    wanted = plan(picture.size, settings)
    left, top = wanted.corner
    whole = picture.resize(wanted.resized, PILLOW_FILTERS[interpolation])
    crop = whole.crop((left, top, left + target, top + target)).convert("RGB")
    np.testing.assert_array_equal(preprocess_one(encoded(picture, "PNG"), settings), np.asarray(crop))


def test_a_side_that_would_vanish_stays() -> None:
    settings = PreprocessSettings((224, 224), resize_mode="longest")
    assert preprocess_one(encoded(noise(1, 1000), "PNG"), settings).shape == (224, 224, 3)


@pytest.mark.parametrize(
    ("source", "resized", "corner"),
    [
        ((640, 427), (335, 224), (56, 0)),  # int(335.7), and 55.5 rounds to the even 56
        ((427, 640), (224, 335), (0, 56)),
        ((225, 224), (225, 224), (0, 0)),  # 0.5 rounds to the even 0
        ((227, 224), (227, 224), (2, 0)),  # 1.5 rounds to the even 2
        ((224, 224), (224, 224), (0, 0)),
    ],
)
def test_rounding_is_torchvisions(
    source: tuple[int, int], resized: tuple[int, int], corner: tuple[int, int]
) -> None:
    found = plan(source, SETTINGS)
    assert (found.resized, found.corner, found.pads) == (resized, corner, False)


def test_errors_are_raised_for_a_single_photo() -> None:
    with pytest.raises(ItemError):
        preprocess_one(b"", SETTINGS)
