"""Odd files of every format, in all qualities: their pixels, their notices, their errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from clip_preprocess import ErrorCode, ItemError, Preprocessor, PreprocessSettings, preprocess_one
from testing.odd_files import broken_files, named_files, odd_files
from testing.odd_jpegs import broken_jpegs, odd_jpegs, unsupported_jpegs

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")
QUALITIES: tuple[Any, ...] = ("exact", "high", "fast")
ODD = odd_files() | odd_jpegs()
BROKEN = broken_files() | broken_jpegs()
NAMED = named_files() | unsupported_jpegs()


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
