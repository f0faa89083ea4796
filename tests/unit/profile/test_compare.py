"""The table: stages down, configurations across, and no difference claimed that is only noise."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from clip_profile.answer.compare import columns_of, rows_of, to_dict, to_text
from clip_profile.errors import ProfileError
from clip_profile.records.measurement import Measurement
from clip_profile.records.objective import Objective
from clip_profile.records.run_folder import RunFolder
from tests.unit.profile.records import BASE, about, measurement, setting

OTHER = setting(preprocess_instances=1)


def write(folder: Path, *measurements: Measurement) -> Path:
    with RunFolder.create_or_resume(folder, about()) as run:
        for one in measurements:
            run.add(one)
    return folder


def three(at: object, rates: list[float], **changes: object) -> list[Measurement]:
    return [
        dataclasses.replace(measurement(at, photos_per_s=rate, round=n, **changes))  # type: ignore[arg-type]
        for n, rate in enumerate(rates, 1)
    ]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write(tmp_path / "a", *three(BASE, [15.0, 15.4, 14.8]), *three(OTHER, [10.0, 10.3, 9.9]))


def test_the_settings_of_one_run_stand_side_by_side(run: Path) -> None:
    columns = columns_of([str(run)], Objective())
    assert [column.result.setting for column in columns] == [BASE, OTHER]
    rows = {row.name: row for row in rows_of(columns)}
    throughput = rows["throughput"]
    assert throughput.changes[1] == pytest.approx((10.0667 / 15.0667 - 1) * 100, abs=0.05)
    assert throughput.proved == (None, True)
    # Without spread of its own a figure that is the same is no change.
    assert rows["transport"].changes[1] == pytest.approx(0.0)
    assert rows["transport"].proved == (None, False)


def test_stages_come_first_and_resources_last(run: Path) -> None:
    rows = rows_of(columns_of([str(run)], Objective()))
    groups = [row.group for row in rows]
    assert groups == sorted(groups, key=["stages", "request", "resources"].index)
    assert [row.name for row in rows if row.group == "stages"] == [
        "transport", "queue", "decode + preprocess", "embed",
    ]  # fmt: skip


def test_without_a_gpu_its_rows_are_left_out(run: Path, tmp_path: Path) -> None:
    assert not [row for row in rows_of(columns_of([str(run)], Objective())) if "GPU" in row.name]
    used = write(tmp_path / "gpu", measurement(resources={"gpu": 0.5, "gpu_memory_mb": 900.0}))
    both = rows_of(columns_of([str(used), str(run)], Objective()))
    (gpu,) = [row for row in both if row.name == "GPU in use"]
    assert gpu.cells[0] is not None
    assert gpu.cells[0].mean == 50.0
    assert gpu.cells[1] is None
    assert gpu.changes == (None, None)


def test_runs_of_different_times_are_compared_by_their_intervals(run: Path, tmp_path: Path) -> None:
    noisy = write(tmp_path / "b", *three(BASE, [12.0, 18.0, 15.5]))
    faster = write(tmp_path / "c", *three(BASE, [20.0, 20.4, 19.9]))
    rows = {row.name: row for row in rows_of(columns_of([str(run), str(noisy), str(faster)], Objective()))}
    assert rows["throughput"].proved == (None, False, True)


def test_a_setting_can_be_named(run: Path) -> None:
    columns = columns_of([str(run), f"{run}:{OTHER.label}"], Objective())
    assert [column.result.setting for column in columns] == [BASE, OTHER]
    with pytest.raises(ProfileError, match=f"no setting 'nonsense'; it has .*{OTHER.label}"):
        columns_of([f"{run}:nonsense"], Objective())


def test_a_run_without_measurements_is_named(tmp_path: Path) -> None:
    empty = write(tmp_path / "empty")
    for names in ([empty], [empty, empty], [f"{empty}:{BASE.label}"]):
        with pytest.raises(ProfileError, match="empty has no measurements yet"):
            columns_of([str(name) for name in names], Objective())


def test_the_change_and_its_proof_are_of_the_same_rounds(tmp_path: Path) -> None:
    """The third round was fast for all: who was in it looks better than it is."""
    run = write(tmp_path / "a", *three(BASE, [10.0, 10.1, 16.0]), *three(OTHER, [12.0, 12.1]))
    (row,) = [row for row in rows_of(columns_of([str(run)], Objective())) if row.name == "throughput"]
    assert row.cells[0] is not None
    assert row.cells[1] is not None
    assert row.cells[0].mean > row.cells[1].mean
    columns = columns_of([f"{run}:{BASE.label}", f"{run}:{OTHER.label}"], Objective())
    (row,) = [row for row in rows_of(columns) if row.name == "throughput"]
    assert row.changes[1] == pytest.approx(19.9, abs=0.1)
    assert row.proved == (None, True)


def test_another_runs_column_changes_nothing_between_the_others(run: Path, tmp_path: Path) -> None:
    """Its rounds have the same numbers, and nothing else in common."""
    wild = write(tmp_path / "b", *three(BASE, [12.0, 30.0, 8.0]))
    names = [f"{run}:{BASE.label}", f"{run}:{OTHER.label}"]
    two = rows_of(columns_of(names, Objective()))
    three_ = rows_of(columns_of([*names, str(wild)], Objective()))
    assert [row.proved for row in two] == [row.proved[:2] for row in three_]
    for before, after in zip(two, three_, strict=True):
        assert before.changes[1] == pytest.approx(after.changes[1])
    assert [row.proved[1] for row in two if row.name == "throughput"] == [True]


def test_settings_that_miss_the_objective_are_named_and_come_last(tmp_path: Path) -> None:
    late, early = three(BASE, [15.0, 15.1], p95_ms=900.0), three(OTHER, [10.0, 10.1], p95_ms=300.0)
    run = write(tmp_path / "a", *late, *early)
    bound = Objective(500)
    columns = columns_of([str(run)], bound)
    assert [column.result.setting for column in columns] == [OTHER, BASE]
    text = to_text(columns, rows_of(columns), bound)
    assert f"[1] {run}:{OTHER.label}\n    {OTHER.describe()}\n[2]" in text
    assert (
        f"[2] {run}:{BASE.label}\n    {BASE.describe()}\n    misses the objective: p95 of at most 500 ms"
        in text
    )
    none, bound = columns_of([str(run), f"{run}:{BASE.label}"], Objective(100)), Objective(100)
    assert to_text(none, rows_of(none), bound).count("misses the objective") == 2
    assert [column["met"] for column in to_dict(none, rows_of(none), bound)["columns"]] == [False, False]


def test_the_table_and_the_json_hold_the_same(run: Path, tmp_path: Path) -> None:
    noisy = write(tmp_path / "b", *three(BASE, [12.0, 18.0, 15.5]))
    columns = columns_of([str(run), str(noisy)], Objective())
    rows = rows_of(columns)
    lines = to_text(columns, rows, Objective()).splitlines()
    (line,) = [line for line in lines if line.startswith("throughput")]
    assert "15.1 ± 0.8" in line
    assert line.endswith("15.2 ± 7.5 +0.7 % (noise)")
    values = to_dict(columns, rows, Objective())
    (row,) = [row for row in values["rows"] if row["name"] == "throughput"]
    assert row["beyond_noise"] == [None, False]
    assert row["mean"] == pytest.approx([15.0667, 15.1667], abs=0.001)
    assert len({len(line.rstrip()) for line in lines if line.startswith("---")}) == 1
