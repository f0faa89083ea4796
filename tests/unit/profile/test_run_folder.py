"""A run survives being cut off, and no other sweep's or version's run is taken for it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from clip_profile.errors import RunFolderError
from clip_profile.records.measurement import Failure, Round
from clip_profile.records.run_folder import FORMAT, RunFolder
from clip_profile.records.setting import Space
from tests.unit.profile.records import BASE, about, measurement, setting


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "run"
    with RunFolder.create_or_resume(path, about()) as run:
        run.add(measurement(latencies_ms=(1.0, 2.5)))
        run.add(Failure(BASE, Round("a", 1), "closed", 1.7e9, "the server died"))
    return path


def test_what_was_added_is_read_again(folder: Path) -> None:
    run = RunFolder.load(folder)
    assert run.about == about()
    assert run.measurements == [measurement(latencies_ms=(1.0, 2.5))]
    assert [failure.text for failure in run.failures] == ["the server died"]


def test_a_failure_followed_by_a_success_is_dropped(folder: Path) -> None:
    other = setting(concurrency=1)
    with RunFolder.create_or_resume(folder, about()) as run:
        for text in ("out of memory", "out of memory again"):
            run.add(Failure(other, None, "closed", 1.7e9, text))
        run.add(Failure(other, Round("a", 1), "closed", 1.7e9, "another round"))
        run.add(measurement(other, round=1))
    for read in (run, RunFolder.load(folder)):
        assert [one.text for one in read.failures] == ["the server died", "out of memory again"]


def test_the_same_sweep_continues(folder: Path) -> None:
    later = about(created="2026-02-02T00:00:00+00:00", command=("clip-profile", "again"))
    with RunFolder.create_or_resume(folder, later) as run:
        assert len(run.measurements) == 1
        run.add(measurement(round=2))
    assert len(RunFolder.load(folder).measurements) == 2


def test_a_line_cut_off_in_the_middle_costs_only_itself(folder: Path) -> None:
    lines = folder / "measurements.jsonl"
    lines.write_bytes(lines.read_bytes() + lines.read_bytes()[:100])
    assert len(RunFolder.load(folder).measurements) == 1
    with RunFolder.create_or_resume(folder, about()) as run:
        run.add(measurement(round=2))
    assert [one.round for one in RunFolder.load(folder).measurements] == [None, Round("a", 2)]


def test_damage_in_the_middle_is_named(folder: Path) -> None:
    lines = folder / "measurements.jsonl"
    lines.write_bytes(b"{oops\n" + lines.read_bytes())
    with pytest.raises(RunFolderError, match=r"measurements\.jsonl, line 1 is damaged: JSON is malformed"):
        RunFolder.load(folder)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"target": "127.0.0.1:8001"}, r"target \(embedded there, 127.0.0.1:8001 now\)"),
        ({"photos": {**about().photos, "count": 1}}, r"photos \(count\)"),
        ({"space": Space(concurrency=(1,))}, r"space \(concurrency\)"),
        ({"machine": dataclasses.replace(about().machine, cores=64)}, r"machine \(cores\)"),
        ({"served": {**about().served, "configs": "f"}}, r"served \(configs\)"),
        ({"served": {**about().served, "weights_sha256": "f"}}, r"served \(weights_sha256\)"),
        (
            {"seconds": 9.0, "share": 0.5},
            r"seconds \(6.0 there, 9.0 now\), share \(0.7 there, 0.5 now\)",
        ),
        ({"versions": {"python": "3.11", "numpy": "9"}}, r"versions \(numpy\)"),
    ],
)
def test_another_sweep_is_refused(folder: Path, changed: dict[str, Any], named: str) -> None:
    with (
        pytest.raises(RunFolderError, match=f"sweep with different {named}: old and new"),
        RunFolder.create_or_resume(folder, about(**changed)),
    ):
        pass


def test_settings_that_ran_in_the_same_rounds_keep_their_group(folder: Path) -> None:
    a, b, c = (setting(concurrency=n) for n in (1, 2, 3))
    with RunFolder.create_or_resume(folder, about()) as run:
        first = run.group_of([b, a])
        assert run.group_of([a, b]) == first
        run.add(dataclasses.replace(measurement(a), round=Round(first, 1)))
        assert run.group_of([a, b]) == first, "that was cut off"
        run.add(dataclasses.replace(measurement(b), round=Round(first, 1)))
        assert run.group_of([b]) == first, "fewer of them"
        assert run.group_of([a, b, c]) != first, "c was not in its rounds"


def test_another_versions_folder_is_refused(folder: Path) -> None:
    path = folder / "run.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "clip_profile_format": FORMAT + 1}))
    with pytest.raises(RunFolderError, match=rf"format {FORMAT + 1}; .* reads and writes format {FORMAT}"):
        RunFolder.load(folder)


@pytest.mark.parametrize("text", ["[]", "{}", '{"clip_profile_format": 1}', "not json"])
def test_a_damaged_folder_is_rejected_in_one_sentence(folder: Path, text: str) -> None:
    (folder / "run.json").write_text(text)
    with pytest.raises(RunFolderError):
        RunFolder.load(folder)


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").touch()
    with (
        pytest.raises(RunFolderError, match="not empty and is not a run folder"),
        RunFolder.create_or_resume(tmp_path, about()),
    ):
        pass
    with pytest.raises(RunFolderError, match="is not a run folder"):
        RunFolder.load(tmp_path / "nowhere")


def test_two_sweeps_do_not_share_a_folder(folder: Path) -> None:
    with (
        RunFolder.create_or_resume(folder, about()),
        pytest.raises(RunFolderError, match="another clip-profile is using"),
        RunFolder.create_or_resume(folder, about()),
    ):
        pass
