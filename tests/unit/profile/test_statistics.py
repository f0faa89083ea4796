"""Known distributions in, the right percentiles, intervals and verdicts out."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip_profile.records.statistics import Observation, Rounds, Spread, percentile

_VALUES = st.lists(st.floats(0.001, 1e6), min_size=1, max_size=200)


def test_percentiles_of_0_to_100_are_themselves() -> None:
    values = [float(n) for n in np.random.default_rng(0).permutation(101)]
    assert [percentile(values, p) for p in (0, 50, 90, 95, 99, 100)] == [0, 50, 90, 95, 99, 100]


def test_percentiles_of_an_exponential_distribution() -> None:
    values = list(np.random.default_rng(1).exponential(100.0, 200_000))
    for p in (50, 90, 95, 99):
        assert percentile(values, p) == pytest.approx(-100 * math.log(1 - p / 100), rel=0.02)


@given(_VALUES)
def test_percentiles_lie_between_the_extremes_and_rise(values: list[float]) -> None:
    found = [percentile(values, p) for p in (0, 50, 90, 95, 99, 100)]
    assert found[0] == min(values)
    assert found[-1] == max(values)
    assert found == sorted(found)


def test_nothing_has_no_percentile() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)


def test_the_interval_of_a_textbook_sample() -> None:
    # Mean 2, standard deviation 1, n 3: 4.303 / sqrt(3).
    spread = Spread.of([1.0, 2.0, 3.0])
    assert (spread.mean, spread.n) == (2.0, 3)
    assert spread.half == pytest.approx(2.484, abs=0.001)


def test_a_single_value_has_an_unknown_spread() -> None:
    assert Spread.of([5.0]) == Spread(5.0, None, 1)


def test_the_interval_holds_the_true_mean_in_95_of_100_samples() -> None:
    random = np.random.default_rng(2)
    held = 0
    for _ in range(2000):
        spread = Spread.of(list(random.normal(10.0, 2.0, 4)))
        assert spread.half is not None
        held += abs(spread.mean - 10.0) <= spread.half
    assert 0.93 < held / 2000 < 0.97


def _observed(
    truth: dict[str, float], rounds: int, noise: float, drift: float, random: np.random.Generator
) -> list[Observation]:
    """Rounds in which the machine gets slower or faster for all by `drift`, and each run by `noise`."""
    return [
        Observation(name, str(number), value * math.exp(common + random.normal(0, noise)))
        for number in range(rounds)
        for common in [random.normal(0, drift)]
        for name, value in truth.items()
    ]


def test_equal_subjects_are_told_apart_in_5_of_100_experiments() -> None:
    random = np.random.default_rng(3)
    proved = sum(
        Rounds(_observed({"a": 10, "b": 10, "c": 10}, 3, 0.03, 0.1, random)).difference("a", "b").proved
        for _ in range(1000)
    )
    assert 0.03 < proved / 1000 < 0.07


def test_drift_between_rounds_hides_no_difference() -> None:
    random = np.random.default_rng(4)
    rounds = [Rounds(_observed({"a": 10, "b": 11}, 5, 0.02, 0.5, random)) for _ in range(100)]
    assert sum(one.difference("a", "b").proved for one in rounds) > 90
    assert np.mean([one.difference("a", "b").ratio for one in rounds]) == pytest.approx(1.1, rel=0.01)
    assert np.mean([one.noise for one in rounds]) == pytest.approx(0.02, rel=0.2)


def test_the_same_is_proved_where_noise_is_small() -> None:
    random = np.random.default_rng(5)
    same = Rounds(_observed({"a": 10, "b": 10.02}, 5, 0.003, 0.2, random)).difference("a", "b")
    assert 0.95 < same.low < 1 < same.high < 1.05
    assert not same.proved


def test_a_level_is_free_of_the_rounds_luck() -> None:
    """The third round was fast, and only one was in it."""
    values = {"a": (10.0, 10.0, 16.0), "b": (11.0, 11.0)}
    rounds = Rounds(
        [Observation(name, str(n), value) for name, own in values.items() for n, value in enumerate(own)]
    )
    levels = {name: rounds.level(name) for name in values}
    mean = (10 * 10 * 16) ** (1 / 3)
    assert levels == {"a": pytest.approx(mean), "b": pytest.approx(1.1 * mean)}


def test_without_repeats_nothing_is_proved() -> None:
    rounds = Rounds([Observation("a", "1", 10.0), Observation("b", "1", 20.0)])
    difference = rounds.difference("a", "b")
    assert difference.ratio == pytest.approx(2)
    assert not difference.proved
    assert (difference.low, difference.high) == (0, math.inf)
    assert rounds.freedom == 0
    assert math.isnan(rounds.noise)


def test_subjects_of_rounds_with_nothing_in_common_do_not_compare() -> None:
    observations = [Observation(name, f"{name}{n}", 10.0 + n) for name in "ab" for n in range(3)]
    observations += [Observation("c", f"a{n}", 20.0 + n) for n in range(3)]
    rounds = Rounds(observations)
    assert rounds.difference("a", "c").proved
    assert not rounds.difference("a", "b").proved
    assert math.isnan(rounds.difference("a", "b").ratio)
    assert rounds.level("a") is None
    assert math.isnan(rounds.difference("a", "nobody").ratio)
    assert not rounds.difference("a", "nobody").proved
    assert rounds.level("nobody") is None


@given(st.floats(0.1, 1000), st.floats(0.1, 1000))
def test_a_difference_turned_round_is_its_inverse(a: float, b: float) -> None:
    observations = [
        Observation(name, str(n), value * factor)
        for name, value in (("a", a), ("b", b))
        for n, factor in enumerate((1.0, 1.05, 0.98))
    ]
    rounds = Rounds(observations)
    there, back = rounds.difference("a", "b"), rounds.difference("b", "a")
    assert there.ratio == pytest.approx(b / a, rel=1e-6)
    assert back.low == pytest.approx(1 / there.high, rel=1e-6)
    assert rounds.difference("a", "a").ratio == 1
