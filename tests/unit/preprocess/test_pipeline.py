"""Rows of a batch: each right, or zero with its error, whatever its neighbors are."""

from __future__ import annotations

import gc
import pickle
import queue
import subprocess
import sys
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
from clip_preprocess.errors import ErrorCode, ItemError, SettingsError
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


_FORK = """
import os, sys
import numpy as np
from clip_preprocess import Preprocessor, PreprocessSettings
photo, rows = sys.stdin.buffer.read(), np.zeros((2, 64, 64, 3), np.uint8)
preprocessor = Preprocessor(PreprocessSettings((64, 64)), threads=2)
preprocessor.run([photo, photo], rows)
child = os.fork()
if child == 0:
    again = np.zeros_like(rows)
    preprocessor.run([photo, photo], again)
    os._exit(0 if (again == rows).all() and rows.any() else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_forked_process_makes_its_own_threads() -> None:
    """As a DataLoader's workers do; the parent's threads do not exist there, so run() waited forever."""
    photo = encoded(noise(90, 80), "JPEG")
    code = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", _FORK]
    assert subprocess.run(code, input=photo, timeout=120, check=False).returncode == 0


def test_a_used_preprocessor_is_pickled_without_its_threads() -> None:
    photo = encoded(noise(90, 80), "JPEG")
    used, rows, again = Preprocessor(SETTINGS), empty_rows(1), empty_rows(1)
    used.run([photo], rows)
    copy = pickle.loads(pickle.dumps(used))
    copy.run([photo], again)
    used.close()
    copy.close()
    np.testing.assert_array_equal(again, rows)


@pytest.mark.parametrize(
    "photo",
    ["a.jpg", None, Image.new("RGB", (9, 9)), np.zeros((9, 9, 3), np.uint8), memoryview(b"abcd")[::2]],
)
def test_anything_but_the_bytes_of_a_file_is_a_type_error(photo: Any) -> None:
    with pytest.raises(TypeError, match=r"must be the bytes of its encoded file, not .*read_bytes"):
        Preprocessor(SETTINGS)(photo)
    rows = empty_rows(2)
    with pytest.raises(TypeError, match="must be the bytes"):
        Preprocessor(SETTINGS).run([encoded(noise(9, 9), "PNG"), photo], rows)
    assert (rows == 7).all(), "nothing was written"


@pytest.mark.parametrize("kind", [bytearray, memoryview, lambda data: np.frombuffer(data, np.uint8)])
def test_other_buffers_of_bytes_are_photos(kind: Any) -> None:
    photo = encoded(noise(90, 80), "JPEG")
    np.testing.assert_array_equal(Preprocessor(SETTINGS)(kind(photo)), Preprocessor(SETTINGS)(photo))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"image_size": (0, 224)}, "image_size is 0 x 224, and must be at least 1 x 1"),
        ({"image_size": 224}, "unsupported setting"),
        ({"quality": "best"}, "'best' is not one of exact, high, fast"),
        ({"interpolation": "lanczos"}, "'lanczos' is not one of bicubic"),
        ({"resize_mode": "crop"}, "'crop' is not one of shortest"),
    ],
)
def test_wrong_settings_are_refused_before_any_photo(values: Any, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        PreprocessSettings(**{"image_size": (224, 224), **values})


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


def test_a_photo_that_takes_too_long_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
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
@hypothesis_settings(max_examples=150)
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


def test_a_side_is_never_resized_to_zero() -> None:
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
