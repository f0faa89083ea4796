"""2,000 files of the fuzzer; `python -m tests.fuzz` decodes more."""

from __future__ import annotations

import pytest

from testing.mutate import header_noise, mutations
from tests.fuzz.check import check_files, check_noise


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("threads", [1, 2])
def test_mutated_files(threads: int) -> None:
    outcome = check_files(mutations(1000, seed=threads), threads=threads)
    assert [rule for _, rule in outcome.violations] == []
    assert outcome.codes["ok"] > 50
    assert outcome.codes["corrupt"] > 50
    assert outcome.codes["truncated"] > 50


def test_noise_in_jpeg_headers_changes_no_pixel() -> None:
    pairs = list(header_noise(300, seed=3))
    assert all(noisy != clean for noisy, clean in pairs)
    assert check_noise(pairs) == []
