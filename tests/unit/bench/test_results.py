"""The arithmetic of the benchmark: known rows in, right figures out."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from benchmarks.results import (
    Results,
    Spread,
    Window,
    best,
    difference,
    percentile,
    ratio,
    stage_means,
)

_WINDOW = Window(
    key="a",
    number=1,
    images_per_s=10.0,
    service_cpu_ms=90.0,
    client_cpu_ms=10.0,
    peak_rss=10**9,
    client_peak_rss=10**8,
    latencies_ms=[5.0],
    others=0.1,
)


def window(key: str, number: int, images_per_s: float) -> Window:
    return dataclasses.replace(_WINDOW, key=key, number=number, images_per_s=images_per_s)


def results(*windows: Window) -> Results:
    return Results({}, {}, list(windows))


@pytest.mark.parametrize(
    ("percent", "count", "known"),
    [(50, 1, False), (50, 2, True), (95, 19, False), (95, 20, True), (99, 99, False), (99, 100, True)],
)
def test_a_percentile_needs_enough_values(percent: float, count: int, known: bool) -> None:
    assert (percentile([1.0] * count, percent) is not None) == known


def test_percentiles_of_a_known_distribution() -> None:
    values = [float(value) for value in range(1001)]
    assert [percentile(values, percent) for percent in (50, 95, 99)] == [500.0, 950.0, 990.0]


def test_ratios_are_taken_within_a_pass() -> None:
    # The machine was half as fast in pass 2: both were, and the ratio must not know.
    run = results(
        *(window("ours", number, images) for number, images in ((1, 30.0), (2, 15.0), (3, 33.0))),
        *(window("theirs", number, images) for number, images in ((1, 10.0), (2, 5.0))),
    )
    assert ratio(run, "ours", "theirs") == Spread(3.0, 3.0, 3.0)


def test_no_ratio_to_an_unmeasured_system() -> None:
    assert ratio(results(window("ours", 1, 3.0)), "ours", "theirs") is None
    assert ratio(results(window("ours", 1, 3.0), window("theirs", 2, 3.0)), "ours", "theirs") is None


def test_images_per_cpu_second_count_service_and_client() -> None:
    assert _WINDOW.images_per_cpu_s == pytest.approx(10.0)
    cheaper = dataclasses.replace(_WINDOW, key="b", service_cpu_ms=40.0)
    run = results(_WINDOW, cheaper)
    assert ratio(run, "b", "a", "images_per_cpu_s") == Spread(2.0, 2.0, 2.0)


def test_the_best_is_best_by_median() -> None:
    lucky = [window("lucky", number, images) for number, images in enumerate((1.0, 1.0, 99.0), 1)]
    steady = [window("steady", number, 5.0) for number in (1, 2, 3)]
    assert best(results(*lucky, *steady), ["lucky", "steady", "absent"]) == "steady"
    assert best(results(), ["absent"]) is None


def test_stage_times_are_the_difference_of_two_readings() -> None:
    before = {"decode": (1.0, 10), "idle": (1.0, 5)}
    after = {"decode": (1.6, 30), "idle": (1.0, 5), "new": (0.5, 5)}
    found = difference(before, after)
    assert set(found) == {"decode", "new"}
    assert found["decode"] == pytest.approx((30.0, 20))
    assert found["new"] == pytest.approx((100.0, 5))


def test_stage_means_weigh_passes_by_their_counts() -> None:
    first = dataclasses.replace(_WINDOW, stages={"load": (10.0, 30)})
    second = dataclasses.replace(_WINDOW, stages={"load": (20.0, 10)})
    assert stage_means([first, second]) == {"load": 12.5}


def test_results_come_back_from_their_file(tmp_path: Path) -> None:
    run = results(_WINDOW)
    run.bad_input.append(("origin", "cut off", "422"))
    run.failures.append(("a", 1, "why"))
    run.save(tmp_path / "sub" / "results.json")
    assert Results.load(tmp_path / "sub" / "results.json") == run


def test_results_of_another_version_are_refused(tmp_path: Path) -> None:
    run = dataclasses.replace(results(), format=0)
    run.save(tmp_path / "results.json")
    with pytest.raises(ValueError, match="another version"):
        Results.load(tmp_path / "results.json")
