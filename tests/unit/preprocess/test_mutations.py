"""Whatever is done to a file: pixels of the right shape or an ItemError, and unchanged neighbors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clip_preprocess import DecodeLimits, ErrorCode, Preprocessor, PreprocessSettings, preprocess_one
from testing.pictures import encoded, noise, odd_pictures, other_formats

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")
CORPUS = [data for data in (odd_pictures() | other_formats()).values() if len(data) < 60_000]
SETTINGS = PreprocessSettings((64, 64), limits=DecodeLimits(max_pixels=4_000_000))
PREPROCESSOR = Preprocessor(SETTINGS)
NEIGHBOR = encoded(noise(50, 40), "PNG")
EXPECTED = preprocess_one(NEIGHBOR, SETTINGS)

sources = st.sampled_from(CORPUS)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A sound file with flipped bits, changed bytes, a missing part, or the end of another file."""
    data = bytearray(draw(sources))
    header_first = st.one_of(st.integers(0, 199), st.integers(0, len(data) - 1))
    for _ in range(draw(st.integers(1, 4))):
        at = min(draw(header_first), max(len(data) - 1, 0))
        match draw(st.sampled_from(["flip", "set", "cut", "splice", "end", "repeat"])):
            case "flip" if data:
                data[at] ^= 1 << draw(st.integers(0, 7))
            case "set":
                data[at : at + 4] = draw(st.sampled_from([bytes(4), b"\xff" * 4, b"\x7f\xff\xff\xff"]))
            case "cut":
                del data[at : at + draw(st.integers(1, 300))]
            case "splice":
                other = draw(sources)
                data[at:] = other[min(at, len(other)) :]
            case "end":
                del data[at:]
            case _:
                data[at:at] = data[at : at + draw(st.integers(1, 300))]
    return bytes(data)


@settings(max_examples=300, derandomize=True, suppress_health_check=list(HealthCheck))
@given(mutated())
def test_mutations(data: bytes) -> None:
    rows = np.full((3, 64, 64, 3), 7, np.uint8)
    first, outcome, last = PREPROCESSOR.run([NEIGHBOR, data, NEIGHBOR], rows)
    assert first.error is last.error is None
    np.testing.assert_array_equal(rows[0], EXPECTED)
    np.testing.assert_array_equal(rows[2], EXPECTED)
    if (error := outcome.error) is not None:
        assert error.code is not ErrorCode.INTERNAL, error.text
        assert error.text
        assert not rows[1].any()
