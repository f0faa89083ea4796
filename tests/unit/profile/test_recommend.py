"""The best under an objective, with what is known of its certainty and of what bounds it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from clip_profile.answer.bottleneck import bottleneck_of
from clip_profile.answer.placement import Placement
from clip_profile.answer.recommend import Recommendation, recommend
from clip_profile.errors import ProfileError
from clip_profile.records.measurement import EMBED, PREPROCESS, Failure, Measurement, Round, Stage
from clip_profile.records.objective import Objective
from clip_profile.records.results import Result, frontier, results_of
from clip_profile.records.run_folder import RunFolder
from clip_profile.records.setting import Setting
from clip_profile.report.sections import View
from tests.unit.profile.records import BASE, measurement, run_of, setting

FAST, SLOW = setting(concurrency=16), setting(concurrency=4)


def repeats(at: Any, photos_per_s: list[float], p95_ms: float) -> list[Measurement]:
    return [
        measurement(at, photos_per_s=value, p95_ms=p95_ms + number, round=number)
        for number, value in enumerate(photos_per_s, 1)
    ]


def advised(run: RunFolder, objective: Objective) -> Recommendation:
    return recommend(run, objective)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return run_of(
        tmp_path,
        *repeats(FAST, [15.0, 15.3, 14.9], 900),
        *repeats(SLOW, [12.0, 12.2, 11.9], 400),
        measurement(setting(concurrency=1), photos_per_s=6.0, p95_ms=180),
    )


def test_the_bound_on_the_latency_decides(run: RunFolder) -> None:
    for bound, wanted in ((None, FAST), (1000, FAST), (500, SLOW), (200, setting(concurrency=1))):
        found = advised(run, Objective(bound))
        assert found.best is not None
        assert found.best.setting == wanted


def test_recommending_int8_mentions_its_cost(tmp_path: Path, run: RunFolder) -> None:
    assert not any("int8" in sentence for sentence in advised(run, Objective()).sentences())
    int8 = run_of(tmp_path / "int8", *repeats(setting(encoder_precision="int8"), [20.0, 20.1, 19.9], 400))
    assert any(
        "differ more from open_clip's" in sentence for sentence in advised(int8, Objective()).sentences()
    )


def test_if_no_setting_meets_the_objective_the_nearest_is_named(run: RunFolder) -> None:
    found = advised(run, Objective(p95_ms=100))
    assert found.best is None
    assert found.nearest.setting == setting(concurrency=1)
    assert "No setting that was measured meets the objective" in found.sentences()[0]
    slow = advised(run, Objective(p95_ms=500, min_photos_per_s=14))
    assert slow.best is None
    assert slow.nearest.setting == SLOW


def test_equal_settings_are_named_without_slower_ones(tmp_path: Path) -> None:
    same = setting(queue_delay_us=0)
    run = run_of(
        tmp_path,
        *repeats(FAST, [15.0, 16.0, 14.0], 400),
        *repeats(same, [14.9, 15.7, 14.1], 400),
        *repeats(SLOW, [9.0, 9.6, 8.4], 400),
    )
    found = advised(run, Objective(500))
    assert [one.setting for one in found.equals] == [same]
    assert any("No difference beyond noise" in text and same.describe() in text for text in found.sentences())


def test_the_rounds_decide_not_the_means(tmp_path: Path) -> None:
    """Only FAST was in the third round, in which the machine was fast: its mean is higher for that."""
    run = run_of(
        tmp_path,
        *repeats(FAST, [10.0, 10.0, 16.0], 400),
        *repeats(setting(queue_delay_us=0), [11.0, 11.1], 400),
    )
    found = advised(run, Objective())
    assert found.best is not None
    assert found.best.setting == setting(queue_delay_us=0)
    assert results_of(run)[0].setting == FAST, "whose mean is the highest"
    assert any("faster than every other" in text for text in found.sentences())
    run.add(measurement(setting(queue_delay_us=0), photos_per_s=14.0, round=3))
    found = advised(run, Objective())
    assert not any("faster than every other" in text for text in found.sentences())


def failure(at: Any, round: int, text: str = "tritonserver ended (signal SIGSEGV)") -> Failure:
    return Failure(at, Round("a", round), "closed", 1.7e9, text)


def test_a_setting_that_fails_in_a_later_round_is_not_the_best(tmp_path: Path) -> None:
    fast = measurement(FAST, photos_per_s=20.0, round=1)
    run = run_of(tmp_path, fast, *repeats(SLOW, [12.0, 12.2, 11.9], 400))
    run.add(failure(FAST, 2))
    run.add(failure(FAST, 3))
    found = advised(run, Objective())
    assert found.best is not None
    assert found.best.setting == SLOW
    (said,) = [text for text in found.sentences() if "Excluded" in text]
    assert FAST.describe() in said
    assert "but failed in a round: tritonserver ended (signal SIGSEGV)." in said
    assert found.to_dict()["failed"] == {FAST.label: "tritonserver ended (signal SIGSEGV)"}
    # Nothing is said of failures that took nobody's place.
    assert not advised(run, Objective(380)).failed


def test_a_failed_open_loop_is_reported_and_counts_if_it_killed_the_server(
    tmp_path: Path,
) -> None:
    run = run_of(tmp_path, *repeats(FAST, [15.0, 15.3, 14.9], 900), *repeats(SLOW, [12.0, 12.2, 11.9], 400))
    alone = Failure(FAST, Round("a", 1), "poisson", 1.7e9, "perf_analyzer: no window was long enough")
    run.add(alone)
    found = advised(run, Objective())
    assert found.best is not None
    assert found.best.setting == FAST
    assert any("Poisson arrivals failed: perf_analyzer: no" in t for t in found.sentences())
    run.add(dataclasses.replace(alone, died=True))
    found = advised(run, Objective())
    assert found.best is not None
    assert found.best.setting == SLOW


def test_if_all_good_settings_fail_later_none_is_the_best(tmp_path: Path) -> None:
    run = run_of(tmp_path, measurement(FAST, photos_per_s=20.0, round=1))
    run.add(failure(FAST, 2))
    found = advised(run, Objective())
    assert found.best is None
    assert found.nearest.setting == FAST
    assert "worked in every round" in found.sentences()[0]
    assert "--retry-failed" in found.sentences()[-1]
    run.add(measurement(FAST, photos_per_s=19.0, round=2))
    assert advised(run, Objective()).best is not None, "measured again, it worked"


def test_an_open_loop_above_the_bound_is_warned_about(tmp_path: Path) -> None:
    late = [measurement(SLOW, p95_ms=650, round=number, arrival="poisson") for number in (1, 2, 3)]
    run = run_of(tmp_path, *repeats(SLOW, [12.0, 12.2, 11.9], 400), *late)
    found = advised(run, Objective(500))
    assert found.best is not None
    assert any("exceeds your bound of 500 ms" in text for text in found.sentences())
    assert found.to_dict()["open_loop_p95_ms"] == pytest.approx(650)
    for bound in (None, 700):
        assert not any("Warning" in text for text in advised(run, Objective(bound)).sentences())


def test_how_many_settings_were_tried_is_said(run: RunFolder) -> None:
    run.add(failure(setting(concurrency=8), 1))
    of = len(run.about.space.points())
    for bound in (None, 100):
        assert any(
            f"4 of {of} settings were tried." in text for text in advised(run, Objective(bound)).sentences()
        )


def test_unknown_figures_are_not_reported(run: RunFolder, tmp_path: Path) -> None:
    assert any("No other repeated setting meets" in t for t in advised(run, Objective(500)).sentences())
    assert any("faster than every other" in t for t in advised(run, Objective()).sentences())
    wild = run_of(tmp_path / "wild", *repeats(FAST, [5, 11, 4], 400), *repeats(SLOW, [9, 5, 10], 400))
    assert any("The machine was unsteady" in t for t in advised(wild, Objective()).sentences())
    assert not any("unsteady" in t for t in advised(run, Objective()).sentences())


def test_a_lucky_single_run_does_not_beat_repeats(tmp_path: Path) -> None:
    run = run_of(
        tmp_path,
        *repeats(FAST, [15.0, 16.2, 14.0], 400),
        measurement(setting(queue_delay_us=0), photos_per_s=15.4, p95_ms=300),
    )
    found = advised(run, Objective(500))
    assert found.best is not None
    assert found.best.setting == FAST


def test_a_clearly_better_single_run_wins_and_is_reported_as_single(tmp_path: Path) -> None:
    run = run_of(
        tmp_path, *repeats(FAST, [15.0, 15.2, 14.9], 400), measurement(BASE, photos_per_s=25.0, p95_ms=400)
    )
    found = advised(run, Objective(500))
    assert found.best is not None
    assert found.best.setting == BASE
    assert (
        "It was measured only once: run the same sweep again with --p95-ms 500 to repeat it."
        in found.sentences()
    )


@pytest.mark.parametrize(
    ("changes", "warned"),
    [
        ({}, []),
        ({"preprocess_instances": 4}, ["preprocess instances x threads (4 x 1)"]),
        ({"encoder_instances": 2, "encoder_threads": 2}, ["encoder instances x threads (2 x 2)"]),
        ({"encoder_instances": 3, "model_config_name": "tensorrt"}, []),
    ],
)
def test_instances_past_the_cores_are_warned_against(
    tmp_path: Path, changes: dict[str, Any], warned: list[str]
) -> None:
    """On two cores."""
    found = advised(run_of(tmp_path, measurement(setting(**changes))), Objective())
    warnings = [text.removeprefix("Warning: ") for text in found.sentences() if "Warning" in text]
    assert [text.partition(" exceed the cores (2): ")[0] for text in warnings] == warned


def test_an_empty_run_has_no_advice(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match="has no measurements yet"):
        recommend(run_of(tmp_path), Objective())


def test_repeats_take_the_place_of_the_searchs_run(tmp_path: Path) -> None:
    run = run_of(tmp_path, measurement(FAST, photos_per_s=99.0), *repeats(FAST, [15.0, 15.2], 400))
    (result,) = results_of(run)
    assert result.photos_per_s == pytest.approx(15.1)


def test_nothing_on_the_frontier_is_beaten_in_both(run: RunFolder) -> None:
    extra = measurement(setting(queue_delay_us=0), photos_per_s=11.0, p95_ms=420)
    run.add(extra)
    line = frontier(results_of(run))
    assert [one.setting.concurrency for one in line] == [1, 4, 16]
    assert extra.setting not in [one.setting for one in line]


def _bound(**changes: Any) -> str:
    return bottleneck_of(Result(BASE, (measurement(**changes),), ())).part


def _stages(preprocess_cpu: float, embed_cpu: float) -> dict[str, Stage]:
    return {
        PREPROCESS: Stage(1.0, 1.0, 2, 0.9, {1: 1}, preprocess_cpu),
        EMBED: Stage(1.0, 1.0, 1, 0.9, {1: 1}, embed_cpu),
    }


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"resources": {"gpu": 0.97}}, "gpu"),
        ({"resources": {"client_busy": 0.7}}, "client"),
        ({"resources": {"server_busy": None, "machine_busy": 0.95, "client_busy": 0.6}}, "client"),
        ({"resources": {"server_busy": None, "machine_busy": 0.95, "client_busy": 0.03}}, "machine"),
        ({"resources": {"server_busy": 0.95, "machine_busy": 1.0}, "stages": _stages(30, 80)}, "encoder"),
        ({"resources": {"server_busy": 0.95, "machine_busy": 1.0}, "stages": _stages(90, 20)}, "preprocess"),
        ({"resources": {"server_busy": 0.3, "machine_busy": 1.0}}, "others"),
        ({"busy": (0.5, 0.95)}, "encoder"),
        ({"busy": (0.95, 0.5)}, "preprocess"),
        ({"busy": (0.5, 0.5), "transport_ms": 200.0}, "network"),
        ({"busy": (0.5, 0.5)}, "load"),
        ({"busy": (0.5, 0.95), "resources": {"server_busy": None, "machine_busy": 0.2}}, "encoder"),
    ],
)
def test_the_exhausted_resource_is_the_bottleneck(changes: dict[str, Any], part: str) -> None:
    assert _bound(**changes) == part


# --- placement -----------------------------------------------------------------------------------


def placed(tmp_path: Path, at: Setting, **changes: Any) -> Placement:
    found = advised(run_of(tmp_path, measurement(at, **changes)), Objective())
    assert found.placement is not None
    return found.placement


def stages_of(decode_ms: float | None, embed_ms: float | None, busy: float) -> dict[str, Stage]:
    return {
        PREPROCESS: Stage(20.0, 60.0, 4, 0.9, {1: 40}, decode_ms),
        EMBED: Stage(1.0, 4.0, 1, busy, {8: 10}, embed_ms),
    }


GPU = setting(model_config_name="", encoder_precision="")


def test_a_gpu_that_waits_for_two_cores_is_advised_to_have_its_photos_decoded_elsewhere(
    tmp_path: Path,
) -> None:
    found = placed(tmp_path, GPU, photos_per_s=60.0, stages=stages_of(30.0, None, 0.05))
    assert found.encoder_per_s == pytest.approx(1200)
    assert found.cores_needed == pytest.approx(36)
    assert (found.cores, found.advised) == (2, "elsewhere")
    first, second = found.sentences()
    assert "30.0 ms of CPU per photo" in first
    assert "36 cores like these decode as many; the server has 2" in first
    assert "100,000 with --decode server, 150,528 with --decode client" in second
    assert "Decode elsewhere: clip-embed --decode client" in second


def test_a_gpu_that_is_busy_keeps_its_decoders(tmp_path: Path) -> None:
    found = placed(tmp_path, GPU, photos_per_s=60.0, stages=stages_of(30.0, None, 0.9))
    assert found.advised == "server"
    assert "Keep --decode server" in found.sentences()[1]


def test_a_cpu_encoder_is_measured_by_its_share_of_the_cores(tmp_path: Path) -> None:
    found = placed(tmp_path, FAST, stages=stages_of(40.0, 80.0, 0.9))
    assert found.encoder_per_s == pytest.approx(25)
    assert found.cores_needed == pytest.approx(1)
    assert found.advised == "server"


def test_placement_is_for_machines_and_in_the_report_too(tmp_path: Path) -> None:
    run = run_of(tmp_path, measurement(GPU, photos_per_s=60.0, stages=stages_of(30.0, None, 0.05)))
    values = advised(run, Objective()).to_dict()["placement"]
    assert values["advised"] == "elsewhere"
    rows = [(row["decode"], row["bytes_to_encoder"], row["bytes_of_client"]) for row in values["placements"]]
    assert rows == [
        ("server", 100_000, 100_000),
        ("client", 150_528, 150_528),
        ("host:port", 150_528, 401_056),
    ]
    (section,) = [each for each in View(run, Objective()).sections() if each.title == "Where to decode"]
    assert [row[0] for row in section.rows] == ["server", "client", "host:port"]


def test_without_the_cost_of_decoding_no_placement_is_advised(tmp_path: Path) -> None:
    run = run_of(tmp_path, measurement(GPU, stages=stages_of(None, None, 0.5)))
    found = advised(run, Objective())
    assert found.placement is None
    assert found.to_dict()["placement"] is None
