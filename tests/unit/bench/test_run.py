"""What a long benchmark keeps when something of it fails, and what it does not begin at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks import bad_input
from benchmarks.results import Results, Window
from benchmarks.run import able, choose, kept
from benchmarks.systems import BenchmarkError, Load, Service, System, Workspace, no_service, systems
from clip_profile.console import Console
from clip_serving.encoder.cpu import Cpu
from testing.fake_gcs import FakeGcs

_WINDOW = Window("ours", 1, 10.0, 100.0, 2.0, 10**9, 10**8, [1.0], 0.0)


@pytest.mark.parametrize("error", [BenchmarkError("no"), RuntimeError("no"), KeyboardInterrupt()])
def test_what_was_measured_is_kept_whatever_ends_it(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "results.json"
    results = Results({}, {})
    with pytest.raises(type(error)), kept(results, path):
        raise error
    assert not path.exists(), "nothing replaces the figures of the run before"
    try:
        with kept(results, path):
            results.windows.append(_WINDOW)
            raise error
    except (BenchmarkError, RuntimeError):
        pass
    assert Results.load(path).windows == [_WINDOW]
    assert Results.load(path).interrupted == isinstance(error, KeyboardInterrupt)


def test_a_service_that_does_not_start_is_reported_and_the_others_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def broken(*asked: object) -> Iterator[Service]:
        if asked:
            raise BenchmarkError("it did not start: port in use")
        yield Service("", list)

    @contextmanager
    def answers(*_: object) -> Iterator[Service]:
        yield Service("an address", list)

    monkeypatch.setattr(bad_input, "origin", broken)
    monkeypatch.setattr(bad_input, "litserve", broken)
    monkeypatch.setattr(bad_input, "ours", answers)
    monkeypatch.setattr(bad_input, "_ours", lambda address, photos: f"{len(photos)} to {address}")
    found, workspace = systems(2, Cpu("A CPU", frozenset())), Workspace(tmp_path, tmp_path, tmp_path, 2)
    rows = bad_input.ask_all(found, workspace, FakeGcs(), b"photo")
    assert [service for service, _, _ in rows] == ["origin"] * 2 + ["LitServe"] * 2 + ["ours"] * 2
    assert {answer for _, _, answer in rows} == {
        "not measured: it did not start: port in use",
        "8 to an address",
    }
    ours = [system for system in found if system.key.startswith("ours")]
    assert {row[0] for row in bad_input.ask_all(ours, workspace, FakeGcs(), b"photo")} == {"ours"}


def test_an_empty_choice_is_refused() -> None:
    found, console = systems(2, Cpu("A CPU", frozenset())), Console()
    with pytest.raises(BenchmarkError, match="nothing is left to measure"):
        able(choose(found, ["ours-bf16"]), console)
    load = Load("only", "only", "ceiling", 1)
    unable = System("only", "whole", no_service, (load,), cannot="there is no such thing here")
    with pytest.raises(BenchmarkError, match="nothing is left to measure"):
        able([unable], console)
    assert [one.key for one in able(choose(found, ["ours-bf16", "ours-int8"]), console)] == ["ours-int8"]
    with pytest.raises(BenchmarkError, match="unknown: nobody"):
        choose(found, ["nobody"])
