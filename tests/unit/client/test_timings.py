"""The arithmetic of stages: what is measured, what is a mean of the server's, and what remains."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import numpy as np
import pytest

from clip_client import ModelInfo
from clip_client.timings import STAGES, ServerTimes, TimedAnswer, Timings, table


def measured() -> Timings:
    """Two requests of 100 and 140 ms, the second after 20 of waiting; the first carried two photos."""
    timings = Timings()
    timings.add_load(0.2)
    timings.add_load(0.4)
    timings.add(TimedAnswer([], 0.100, np.array([[0.010, 0.004], [0.014, 0.004]])))
    timings.add(TimedAnswer([], 0.160, np.array([[0.022, 0.006]]), waited_s=0.020))
    before = {"preprocess": ServerTimes(5, 0, 0), "encoder": ServerTimes(5, 7_000, 0)}
    after = {
        "preprocess": ServerTimes(7, 10_000_000, 80_000_000),
        "encoder": ServerTimes(7, 20_007_000, 60_000_000),
    }
    timings.set_server(before, after)
    return timings


def test_each_stage_has_its_share_of_a_request() -> None:
    stages = measured().stages()
    assert tuple(stages) == STAGES
    load, decode = stages["load"], stages["decode"]
    assert (load.min_s, load.max_s) == (0.2, 0.4)
    assert load.mean_s == pytest.approx(0.3)
    assert (decode.min_s, decode.count, decode.max_s) == (0.010, 3, 0.022)
    # A request waits 10 ms for its turn and spends 30 on its own photos, 45 ms in preprocess and its queue,
    # 10 in the encoder's.
    assert stages["queue"].mean_s == pytest.approx(0.010 + 0.045 + 0.010 - 0.030)
    assert stages["embed"].mean_s == pytest.approx(0.030)
    assert stages["transport"].mean_s == pytest.approx(0.120 - 0.025 - 0.030 - 0.030)
    assert stages["embed"].min_s is None


def test_a_server_without_statistics() -> None:
    timings = measured()
    timings.set_server({}, {})
    stages = timings.stages()
    assert stages["queue"].mean_s is stages["embed"].mean_s is stages["transport"].mean_s is None
    assert stages["preprocess"].max_s == 0.006
    assert "-" in table(stages)


class Answer:
    """As tritonclient's InferResult, of one photo."""

    def as_numpy(self, name: str) -> object:
        return {
            "embedding": np.array([[0.6, 0.8]], np.float32),
            "error": np.array([[b""]], np.object_),
            "seconds": np.array([[0.010, 0.004]]),
        }.get(name)


def test_a_server_that_restarted_meanwhile_has_no_statistics() -> None:
    timings = measured()
    timings.set_server({"encoder": ServerTimes(50, 10, 10)}, {"encoder": ServerTimes(2, 1, 1)})
    assert timings.stages()["embed"].mean_s is None


def test_a_server_that_does_not_measure_its_stages() -> None:
    info = ModelInfo("clip_image", "image", "embedding", "error", 2, 64, {})
    timings = Timings()
    timings.add(TimedAnswer.of(info, cast("Any", Answer()), 1, 0.1))
    assert timings.stages()["decode"].count == 0
    measuring = dataclasses.replace(info, seconds_output="seconds")
    timings.add(TimedAnswer.of(measuring, cast("Any", Answer()), 1, 0.1))
    assert timings.stages()["decode"].mean_s == pytest.approx(0.010)


def test_nothing_measured() -> None:
    assert all(stage.mean_s is None for stage in Timings().stages().values())
