"""The load clients: what they say while they press, and what they log."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from benchmarks.clients import CEILING_BATCH, Job, in_process, press
from testing.pictures import camera_photos

_JOB = Job("ceiling", "", "", "", in_flight=3, warm_up_s=0.2, seconds=0.1, cool_down_s=0.05)


def test_load_continues_beyond_the_measured_time(capsys: pytest.CaptureFixture[str]) -> None:
    def request() -> int:
        time.sleep(0.01)
        return 2

    log = press(_JOB, lambda: request)
    assert all(photos == 2 for _, _, photos in log.rows)
    assert min(begin for begin, _, _ in log.rows) < log.begin < log.end < max(end for _, end, _ in log.rows)
    assert capsys.readouterr().out.split() == ["measuring", "measured"]


def test_a_failing_client_fails_the_job() -> None:
    def request() -> int:
        raise RuntimeError("refused")

    with pytest.raises(RuntimeError, match="refused"):
        press(_JOB, lambda: request)


def test_the_ceiling_runs_our_functions_in_processes(tmp_path: Path) -> None:
    for number, photo in enumerate(camera_photos(2)):
        (tmp_path / f"{number}.jpg").write_bytes(photo)
    with in_process(Job("ceiling", "", str(tmp_path), "", in_flight=1), []) as connect:
        assert connect()() == CEILING_BATCH
