"""The rules that hold for every file, whatever is in it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from clip_preprocess import DecodeLimits, ErrorCode, Preprocessor, PreprocessSettings, Quality
from testing.pictures import encoded, source_picture

LONGEST_S = 5.0
"""CPU seconds. No file of the fuzzer's sizes may take longer."""


@dataclass
class Outcome:
    """Files by error code, and the files that broke a rule with the rule."""

    codes: Counter[str] = field(default_factory=Counter)
    violations: list[tuple[bytes, str]] = field(default_factory=list)
    slowest_s: float = 0.0


def check_files(files: Iterable[bytes], *, threads: int = 1) -> Outcome:
    """Each file between two sound neighbors, with the settings in turn."""
    limits = DecodeLimits(max_pixels=20_000_000)
    settings_list = [
        PreprocessSettings((64, 64), limits=limits),
        PreprocessSettings((64, 64), limits=limits, quality="high"),
        PreprocessSettings((64, 64), limits=limits, quality="fast", resize_mode="squash", background="#fff"),
        PreprocessSettings((64, 64), limits=limits, quality="high", resize_mode="longest"),
        PreprocessSettings((64, 64), limits=limits, allow_truncated=True),
    ]
    # Small, as it is decoded twice for each file.
    neighbor = encoded(source_picture("chelsea.png").resize((225, 150)), "JPEG")
    preprocessors = [Preprocessor(settings, threads) for settings in settings_list]
    expected = [_row(preprocessor, neighbor) for preprocessor in preprocessors]
    outcome = Outcome()
    for index, data in enumerate(files):
        turn = index % len(settings_list)
        started = time.process_time()
        rule = _broken_rule(preprocessors[turn], data, neighbor, expected[turn], outcome.codes)
        elapsed = time.process_time() - started
        outcome.slowest_s = max(outcome.slowest_s, elapsed)
        if elapsed > LONGEST_S:
            rule = rule or f"took {elapsed:.1f} s"
        if rule:
            outcome.violations.append((data, rule))
    for preprocessor in preprocessors:
        preprocessor.close()
    return outcome


def _row(preprocessor: Preprocessor, data: bytes) -> npt.NDArray[np.uint8]:
    rows = np.empty((1, 64, 64, 3), np.uint8)
    (outcome,) = preprocessor.run([data], rows)
    assert outcome.error is None
    row: npt.NDArray[np.uint8] = rows[0]
    return row


def _broken_rule(
    preprocessor: Preprocessor,
    data: bytes,
    neighbor: bytes,
    expected: npt.NDArray[np.uint8],
    codes: Counter[str],
) -> str:
    """The rule that this file broke; empty if all hold."""
    rows = np.full((3, 64, 64, 3), 7, np.uint8)
    try:
        first, outcome, last = preprocessor.run([neighbor, data, neighbor], rows)
    except Exception as raised:
        return f"raised {raised!r}"
    error = outcome.error
    codes[error.code.value if error else "ok"] += 1
    same = np.array_equal(rows[0], expected) and np.array_equal(rows[2], expected)
    if first.error or last.error or not same:
        return "changed a neighbor"
    if len({notice.code for notice in outcome.notices}) != len(outcome.notices):
        return "has two notices of one code"
    if error is None:
        return ""
    if outcome.notices:
        return "has notices beside an error"
    if error.code is ErrorCode.INTERNAL:
        return f"failed inside: {error.text}"
    return "left pixels behind" if rows[1].any() and not outcome.valid else ""


def check_noise(pairs: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, str]]:
    """Files with defects outside of their pixels, and intact ones: those that differ, with the rule."""
    qualities: tuple[Quality, ...] = ("exact", "high", "fast")
    preprocessors = [Preprocessor(PreprocessSettings((64, 64), quality=quality)) for quality in qualities]
    violations = []
    rows = np.empty((2, 64, 64, 3), np.uint8)
    for index, (noisy, clean) in enumerate(pairs):
        outcome, _ = preprocessors[index % len(qualities)].run([noisy, clean], rows)
        if outcome.error:
            violations.append((noisy, f"rejected a picture that is there: {outcome.error.wire()}"))
        elif not np.array_equal(rows[0], rows[1]):
            violations.append((noisy, "other pixels than the intact file's"))
    for preprocessor in preprocessors:
        preprocessor.close()
    return violations
