"""RESULTS.md: every system has its row, and an aim is called reached only where it is."""

from __future__ import annotations

import dataclasses

import pytest

from benchmarks.results import Results, Spread, Window
from benchmarks.results_page import AIMS, render, verdict
from benchmarks.systems import systems
from clip_serving.encoder.cpu import Cpu

_FOUND = systems(2, Cpu("with bf16", frozenset({"amx_bf16"})))
_LOADS = [load for system in _FOUND for load in system.loads]


def run(images_per_s: float = 10.0) -> Results:
    windows = [
        Window(load.key, number, images_per_s + number, 90.0, 10.0, 10**9, 10**8, [5.0] * 40, 0.01)
        for number in (1, 2, 3)
        for load in _LOADS
    ]
    return Results({"CPU": "a fast one"}, {"photos": "40"}, windows)


def cells(page: str, start: str) -> list[str]:
    (line,) = [line for line in page.splitlines() if line.startswith(f"| {start} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_keys_are_unique() -> None:
    assert len({load.key for load in _LOADS}) == len(_LOADS)


def test_every_aim_names_systems() -> None:
    known = {load.key for load in _LOADS}
    assert all({aim.ours, *aim.theirs} <= known for aim in AIMS)


def test_every_system_has_its_row_and_tables_are_whole() -> None:
    page = render(run(), _FOUND)
    for load in _LOADS:
        if load.share == 1.0:
            assert f"| {load.label} | 12.0 (11.0 to 13.0) |" in page
    for block in page.split("\n\n"):
        rows = [line.count("|") for line in block.splitlines() if line.startswith("|")]
        assert len(set(rows)) <= 1, block


def test_missing_figures_are_marked_as_not_measured() -> None:
    page = render(Results({}, {}, []), _FOUND)
    rows = sum(load.share == 1.0 for load in _LOADS)
    assert page.count("| not measured |") == rows + 2 * len(AIMS)
    assert "reached" not in page


def test_a_cpu_without_bf16_says_so_in_its_rows() -> None:
    measured = run()
    measured.windows = [one for one in measured.windows if not one.key.startswith("ours-bf16")]
    page = render(measured, systems(2, Cpu("plain", frozenset())))
    for load in ("from the bucket", "uploads"):
        row = cells(page, f"ours, bf16 (OpenVINO), {load}")
        assert row[1] == "not measured: this CPU has no BF16 instructions"
    assert cells(page, "bf16, uploads / LitServe")[2] == "not measured"
    assert cells(page, "int8, uploads / LitServe")[2] == "1.00"


def test_an_aims_two_verdicts() -> None:
    measured = run()
    measured.windows = [
        dataclasses.replace(window, images_per_s=window.images_per_s * 2, service_cpu_ms=190.0)
        if window.key == "ours-fp32-bytes"
        else window
        for window in measured.windows
    ]
    row = cells(render(measured, _FOUND), "fp32, uploads / LitServe")
    assert row[1:] == [">= 1.40", "2.00", "reached", "0.50", "missed"]


def test_a_shared_machine_is_not_judged_by_images_per_second() -> None:
    measured = run()
    next(window for window in measured.windows if window.key == "litserve").others = 0.3
    row = cells(render(measured, _FOUND), "fp32, uploads / LitServe")
    assert row[2:] == ["1.00", "machine shared", "1.00", "missed"]


@pytest.mark.parametrize(
    ("spread", "text"),
    [
        (Spread(1.5, 1.4, 1.6), "reached"),
        (Spread(1.3, 1.2, 1.39), "missed"),
        (Spread(1.5, 1.3, 1.6), "within noise: reached"),
        (Spread(1.3, 1.2, 1.5), "within noise: missed"),
    ],
)
def test_passes_that_disagree_are_noise(spread: Spread, text: str) -> None:
    assert verdict(spread, 1.4) == text


def test_failures_are_listed() -> None:
    measured = run()
    measured.failures.append(("litserve", 2, "it did not start"))
    assert "| litserve | 2 | it did not start |" in render(measured, _FOUND)
