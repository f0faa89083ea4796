"""The arithmetic of the stages: whose clock says what, what adds up, and what stays empty."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from clip_client import ItemError, ObjectInfo
from clip_client.timings import STAGES, ServerTimes
from clip_profile.cli import main
from clip_profile.errors import ProfileError
from clip_profile.load.connection import redacted
from clip_profile.observe.observer import Observer
from clip_profile.observe.server_stats import Counts
from clip_profile.observe.usage import GpuUsage, Level, MachineUsage, Resources, Usage
from clip_profile.records.measurement import Sample
from clip_profile.stages.breakdown import make_report
from clip_profile.stages.measure import Measured, Plan
from clip_profile.stages.requests import Answered, Rotation
from clip_profile.stages.result import FIGURES, Distribution, Report, load_report
from clip_profile.stages.table import table
from clip_profile.stages.traces import RequestTrace
from tests.unit.profile.pages import metrics_page

_ABOUT: dict[str, Any] = {"model": "ViT-B-32 (none)", "server": "embedded", "photos": "album"}
_PLAN = Plan(concurrency=4, images_per_request=2, seconds=10.0, count=None, warm_up_s=1.0)

# Two requests of two photos; the second's last photo has no embedding.
_FIRST = Answered(
    "r-0",
    1.0,
    0.500,
    0.030,
    (0.010, 0.020),
    0.470,
    0.0,
    ((0.040, 0.010), (0.060, 0.010)),
    (True, True),
    2_000_000,
)
_SECOND = Answered(
    "r-1",
    2.0,
    0.740,
    0.050,
    (0.030, 0.020),
    0.690,
    0.140,
    ((0.080, 0.020), (0.001, 0.0)),
    (True, False),
    1_000_000,
)
_TRACES = {
    "r-0": RequestTrace(0.0, 0.050, 0.130, 0.020, 0.250),
    "r-1": RequestTrace(0.100, 0.010, 0.200, 0.030, 0.300),
}


def measured(**changes: Any) -> Measured:
    rotation = Rotation([ObjectInfo("b.jpg", 1)])
    rotation.leave_out(ObjectInfo("b.jpg", 1), ItemError("corrupt", "cut in two"))
    whole = Measured(
        ended="", seconds=2.0, warm_up_s=1.5, answered=[_FIRST, _SECOND], failed=rotation,
        statistics={"preprocess": Counts(6, {1: 2, 4: 1}, 0.0)}, traces=_TRACES, no_traces=None,
    )  # fmt: skip
    return dataclasses.replace(whole, **changes)


def report(**changes: Any) -> Report:
    return make_report(measured(**changes), _PLAN, _ABOUT)


def test_percentiles_of_a_known_distribution() -> None:
    found = Distribution.of([value / 1000 for value in range(101)])
    assert dataclasses.astuple(found) == pytest.approx((101, 0, 50, 50, 95, 99, 100))
    assert Distribution.of([]) == Distribution()


def test_the_parts_of_a_request_add_up_to_its_whole() -> None:
    request = report().per_request
    assert tuple(request) == (*STAGES, "whole")
    assert request["load"].mean_ms == pytest.approx(40.0), "until the last photo is loaded"
    assert request["decode"].max_ms == pytest.approx(100.0), "of both photos"
    assert request["preprocess"].min_ms == pytest.approx(20.0)
    assert request["embed"].min_ms == pytest.approx(250.0)
    # The first waits 50 and 20 ms, and 10 of 130 in its batch are not its own; the second waits
    # 40 for its turn and 100 after a refusal.
    assert request["queue"].min_ms == pytest.approx(50 + 10 + 20)
    assert request["queue"].max_ms == pytest.approx(40 + 100 + 10 + 99 + 30)
    assert request["transport"].max_ms == pytest.approx(20.0)
    parts = [request[stage].mean_ms for stage in STAGES]
    assert sum(part or 0.0 for part in parts) == pytest.approx(request["whole"].mean_ms)


def test_a_photo_has_its_own_times_and_its_share_of_the_rest() -> None:
    found = report()
    photo = found.per_photo
    load, embed = photo["load"], photo["embed"]
    assert (load.min_ms, load.max_ms, load.count) == pytest.approx((10.0, 30.0, 4))
    assert photo["decode"].count == 3, "one that failed is only counted"
    assert photo["decode"].mean_ms == pytest.approx(60.0)
    assert (embed.min_ms, embed.max_ms, embed.count) == pytest.approx((125.0, 150.0, 4))
    assert photo["whole"].mean_ms == pytest.approx(310.0)
    assert (found.photos, found.requests, found.photos_per_s) == (3, 2, 1.5)
    assert found.failed == {"corrupt": 1}
    assert found.mean_batch == {"preprocess": 2.0}
    assert any("rejected and retried requests: 1" in note for note in found.notes)


def test_without_traces_the_means_are_all_there_is() -> None:
    server = {
        "clip_image_preprocess": ServerTimes(2, queue_ns=160_000_000, compute_ns=330_000_000),
        "clip_image_encoder": ServerTimes(2, queue_ns=50_000_000, compute_ns=550_000_000),
    }
    found = report(traces={}, no_traces="no file", server=server)
    assert found.queue_from == "statistics"
    queue = found.per_request["queue"]
    assert queue.mean_ms == pytest.approx(70 + 80 + 165 + 25 - 110.5)
    assert queue.p95_ms is queue.min_ms is None
    assert found.per_photo["queue"].mean_ms == pytest.approx((queue.mean_ms or 0) / 2)
    assert found.per_request["embed"].mean_ms == pytest.approx(275.0)
    assert found.per_request["decode"].p95_ms is not None
    assert any("no file" in note for note in found.notes)
    line = next(line for line in table(found).splitlines() if line.startswith("queue"))
    assert line.split() == ["queue", f"{(queue.mean_ms or 0) / 2:.2f}"], "cells that are not known are empty"
    assert json.loads(found.to_json())["per_request"]["queue"]["p95_ms"] is None


def test_a_server_without_statistics_leaves_three_stages_empty() -> None:
    quiet = [dataclasses.replace(one, photo_s=None) for one in (_FIRST, _SECOND)]
    found = report(answered=quiet, traces={}, statistics={})
    assert found.queue_from == ""
    assert all(found.per_request[stage] == Distribution() for stage in STAGES if stage != "load")
    assert found.per_request["load"].mean_ms is not None
    traced = report(answered=quiet)
    assert traced.per_request["queue"] == Distribution(), "it cannot be told from decode"
    assert traced.per_request["embed"].mean_ms is not None


def test_a_request_without_a_trace_is_not_made_up() -> None:
    found = report(traces={"r-0": _TRACES["r-0"]})
    assert found.per_request["queue"].count == 1
    assert found.per_request["load"].count == 2
    assert any("of the 1 of 2 requests that have a trace" in note for note in found.notes)


def test_an_empty_measurement_has_a_report() -> None:
    found = report(answered=[], traces={}, ended="the server died", seconds=0.0)
    assert json.loads(found.to_json())["ended"] == "the server died"
    assert found.photos_per_s == 0


def test_the_photos_go_round_without_those_that_failed() -> None:
    items = [ObjectInfo(name, 1) for name in "abc"]
    rotation = Rotation(items)
    assert [item.name for item in rotation.take(2)] == ["a", "b"]
    rotation.leave_out(items[0], ItemError("corrupt", "x"))
    rotation.leave_out(items[0], ItemError("corrupt", "again"))
    assert [item.name for item in rotation.take(5)] == ["c", "b", "c", "b", "c"]
    rotation.leave_out(items[1], ItemError("empty", "x"))
    rotation.leave_out(items[2], ItemError("corrupt", "x"))
    assert rotation.take(1) == []
    assert rotation.failed_by_code() == {"corrupt": 2, "empty": 1}


# --- machines ------------------------------------------------------------------------------------


def sample(gpu: float | None = None, memory: float | None = None) -> Sample:
    gpus = () if gpu is None else (gpu, 0.0)
    return Sample(0.0, 1.0, 0.1, 1.5, 900.0, gpus, memory, client_rss_mb=100.0, machine_memory=0.5)


def nvml_usage(*samples: Sample) -> GpuUsage | None:
    observer = Observer(None, {})
    observer.every_sample = list(samples)
    return observer.gpu()


def with_gpu(gpu: GpuUsage | None, report: Report) -> Report:
    usage, machine = Usage(120.0, 80.0, Level(1000.0, 1100.0)), MachineUsage(Level(90.0, 99.0))
    return dataclasses.replace(report, resources=Resources(usage, machine, usage, None, gpu))


def test_gpu_columns_are_there_with_a_gpu_and_left_out_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clip_profile.observe.gpu.memory_total_mb", lambda: 16_000.0)
    assert nvml_usage(sample(), sample()) is None
    found = nvml_usage(sample(0.5, 4000.0), sample(1.0, 4800.0))
    assert found == GpuUsage("nvml", Level(75.0, 100.0), Level(4400.0, 4800.0), 16_000.0)
    divided = nvml_usage(dataclasses.replace(sample(), gpus=(None,), gpu_memory_mb=4000.0))
    assert divided == GpuUsage("nvml", None, Level(4000.0, 4000.0), 16_000.0)
    shown, without = with_gpu(found, report()), with_gpu(None, report())
    rows = [line.split() for line in table(shown).splitlines() if line.startswith("GPU")]
    assert rows == [
        ["GPU:", "in", "use,", "%", "75.0", "100.0"],
        ["GPU:", "memory,", "MB", "4400.0", "4800.0"],
        ["GPU:", "memory,", "%", "27.5", "30.0"],
    ]
    assert json.loads(shown.to_json())["resources"]["gpu"]["percent"] == {"mean": 75.0, "peak": 100.0}
    assert "GPU" not in table(without)
    assert "gpu" not in json.loads(without.to_json())["resources"]


_PAGE = """\
nv_gpu_utilization{gpu_uuid="GPU-a"} 0.5
nv_gpu_utilization{gpu_uuid="GPU-b"} 0.7
nv_gpu_memory_used_bytes{gpu_uuid="GPU-a"} 1048576
nv_gpu_memory_used_bytes{gpu_uuid="GPU-b"} 3145728
nv_gpu_memory_total_bytes{gpu_uuid="GPU-a"} 8388608
nv_gpu_memory_total_bytes{gpu_uuid="GPU-b"} 8388608
nv_cpu_utilization 0.25
nv_cpu_memory_total_bytes 1000
nv_cpu_memory_used_bytes 400
"""


@pytest.fixture
def page(request: pytest.FixtureRequest) -> Iterator[str]:
    with metrics_page(request.param) as url:
        yield url


@pytest.mark.parametrize("page", [_PAGE], indirect=True)
def test_a_gpu_server_elsewhere_is_read_from_its_metrics(page: str) -> None:
    with Observer(None, {}, page) as observer:
        pass
    used = observer.resources(1, 1.0, local=False)
    found = used.gpu
    assert found is not None
    assert (found.source, found.memory_mb) == ("metrics", Level(4.0, 4.0))
    assert found.percent == Level(70.0, 70.0), "the busiest's"
    assert found.memory_percent == Level(25.0, 25.0)
    assert used.server_machine == MachineUsage(Level(25.0, 25.0), Level(40.0, 40.0))


@pytest.mark.parametrize("page", ["nv_cpu_utilization 1\n"], indirect=True)
def test_a_page_without_a_gpu(page: str) -> None:
    with Observer(None, {}, page) as observer:
        pass
    used = observer.resources(1, 1.0, local=False)
    assert used.gpu is None
    assert used.server_machine == MachineUsage(Level(100.0, 100.0), None)
    with Observer(None, {}, "http://127.0.0.1:1/metrics") as missing:
        pass
    assert missing.resources(1, 1.0, local=False).gpu is None
    assert missing.resources(1, 1.0, local=False).server_machine is None


# --- files ---------------------------------------------------------------------------------------


def test_two_files_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slower = dataclasses.replace(_FIRST, load_s=(0.020, 0.040), loaded_s=0.060)
    files = []
    for name, answered in (("a", [_FIRST]), ("b", [slower])):
        file = tmp_path / f"{name}.json"
        file.write_text(with_gpu(None, report(answered=answered)).to_json())
        files.append(str(file))
    assert main(["compare", *files, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["columns"] == files
    rows = {(row["group"], row["name"], row["unit"]): row for row in told["rows"]}
    load = rows["per request", "load", "ms, mean"]
    assert load["mean"] == [30.0, 60.0]
    assert load["change_percent"] == [None, pytest.approx(100.0)]
    assert rows["per photo", "embed", "ms, p95"]["change_percent"][1] == pytest.approx(0.0)
    assert not any("GPU" in name for _, name, _ in rows)
    assert main(["compare", *files]) == 0
    assert "+100.0 %" in capsys.readouterr().out


def test_other_files_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    with pytest.raises(ProfileError, match="No such file"):
        load_report(file)
    for text, why in (
        ("{", "was not written by.* truncated"),
        ('{"kind": "other"}', "was not written by"),
        (report().to_json().replace('"version": 2', '"version": 99'), r"Invalid enum value 99.*version"),
    ):
        file.write_text(text)
        with pytest.raises(ProfileError, match=why):
            load_report(file)


def test_every_figure_has_a_column() -> None:
    header = table(report()).splitlines()[4]
    assert header.split() == ["milliseconds", *FIGURES]


# --- what is refused before anything starts --------------------------------------------------------


@pytest.fixture
def album(tmp_path: Path) -> Path:
    (tmp_path / "album").mkdir()
    (tmp_path / "album" / "a.jpg").write_bytes(b"not opened")
    return tmp_path / "album"


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main(["stages", *map(str, arguments)]) == 2
    text = capsys.readouterr().err
    assert "Traceback" not in text
    return text


def test_no_photos(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "does not exist. Give gs://" in refused(capsys, "--photos", tmp_path / "nowhere")
    assert "has no bucket name" in refused(capsys, "--photos", "gs://")
    assert f"{tmp_path} holds no photos" in refused(capsys, "--photos", tmp_path)


def test_a_server_that_is_not_clip_triton(album: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stranger = grpc.server(ThreadPoolExecutor(1))
    url = f"127.0.0.1:{stranger.add_insecure_port('127.0.0.1:0')}"
    stranger.start()
    try:
        text = refused(capsys, "--photos", album, "--url", url)
    finally:
        stranger.stop(None).wait()
    assert f"the server at {url} does not serve clip_image" in text


def test_a_command_is_kept_without_secrets_and_without_control_characters() -> None:
    """A folder's name may not be UTF-8, and its lone surrogates cannot be written."""
    words = ["--photos", "a\udcff\x1b[2J", "--header", "Authorization: Bearer 1"]
    kept = redacted(words, [("authorization", "Bearer 1")])
    assert kept == ("--photos", "a\\udcff\\x1b[2J", "--header", "Authorization: ...")


def test_outputs_and_servers_that_cannot_be_written_or_changed(
    album: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--photos", album, "--url", "127.0.0.1:1"]
    assert "exists already" in refused(capsys, *command, "--out", album / "a.jpg")
    assert "does not exist" in refused(capsys, *command, "--out", album / "deep" / "a.json")
    text = refused(capsys, *command, "--encoder-threads", 2)
    assert "encoder_threads cannot be changed on a running server" in text
