"""One file, no network, no more than was measured; every chart inside its frame."""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip_client.terminal import printable
from clip_profile.answer.metrics import open_loop
from clip_profile.errors import ProfileError
from clip_profile.records.measurement import Failure, Measurement, Round, Sample
from clip_profile.records.objective import Objective
from clip_profile.records.run_folder import RunFolder
from clip_profile.records.setting import Space
from clip_profile.records.statistics import percentile
from clip_profile.report import chart
from clip_profile.report.page import page, write_report
from tests.unit.profile.records import BASE, about, measurement, setting

_VOID = {"meta", "line", "circle", "rect", "polyline"}


class Document(HTMLParser):
    """Checks that tags are balanced, and collects what is asked for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in _VOID
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def write(folder: Path, *records: Measurement | Failure, **changes: object) -> RunFolder:
    with RunFolder.create_or_resume(folder, about(**changes)) as run:
        for one in records:
            run.add(one)
    return RunFolder.load(folder)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    records: list[Measurement | Failure] = []
    for n in (1, 2, 3):
        records.append(measurement(BASE, photos_per_s=15.0 + n / 10, p95_ms=450, round=n))
        records.append(measurement(BASE, p95_ms=700, round=n, arrival="poisson", latencies_ms=(1.0,)))
    records.append(measurement(setting(concurrency=1), photos_per_s=6.0, p95_ms=150))
    records.append(Failure(setting(concurrency=32), None, "closed", 1.7e9, "<the> server died"))
    return write(tmp_path / "run", *records)


def test_it_is_one_well_formed_file_that_loads_nothing(run: RunFolder) -> None:
    text = page(run, Objective(500))
    document = Document(text)
    assert not [tag for tag, _ in document.tags if tag in ("script", "link", "img", "iframe", "object")]
    assert not [name for _, attributes in document.tags for name in attributes if name in ("src", "href")]
    assert not re.search(r"https?://|@import|url\(", text)
    assert 'name="viewport"' in text
    assert "prefers-color-scheme: dark" in text


def test_it_has_the_recommendation_the_commands_and_the_versions(run: RunFolder) -> None:
    text = Document(page(run, Objective(500))).text
    for wanted in (
        "Best for p95 of at most 500 ms: cpu fp32, 2 preprocess x 1 thread, 1 encoder x 2 threads",
        "clip-profile sweep", "python 3.11", "2 cores of A CPU", "bound: 500 ms",
    ):  # fmt: skip
        assert wanted in text
    assert "the> server died" in text, "failures are told, escaped"


def test_every_setting_is_a_dot_and_a_row_and_the_best_is_marked(run: RunFolder) -> None:
    document = Document(page(run, Objective(500)))
    dots = [a["class"] for tag, a in document.tags if tag == "circle"]
    assert sorted(filter(None, dots)) == sorted(2 * ["dot best", "dot single"]), "one wide and one narrow"
    assert [a.get("class") for tag, a in document.tags if tag == "tr"].count("best") == 1
    # In words, and without what all settings have in common.
    assert document.text.count("8 requests in flight") >= 3
    assert document.text.count("1 request in flight") >= 3
    assert "All have in common: cpu fp32, 2 preprocess x 1 thread, 1 encoder x 2 threads" in document.text
    assert document.text.count(BASE.label) == 1, "what `compare` takes"


def test_without_a_gpu_none_is_mentioned(run: RunFolder) -> None:
    assert "GPU" not in Document(page(run, Objective(500))).text.replace("A GPU for", "").replace("a GPU", "")


def test_with_a_gpu_it_has_its_tile_and_column(tmp_path: Path) -> None:
    samples = tuple(Sample(at, 0.5, 0.1, 1.0, 900.0, (0.0, 0.25, 1.0), 2000.0 + at) for at in (0.0, 1.0))
    used = {"gpu": 1.0, "gpu_memory_mb": 2001.0, "samples": samples}
    run = write(tmp_path / "gpu", measurement(resources=used))
    document = Document(page(run, Objective()))
    assert "GPU in use" in document.text
    assert "GPU %" in document.text
    titles = Counter(re.findall(r"<polyline[^>]*><title>([^<]*GPU[^<]*)<", page(run, Objective())))
    assert titles == {"the other GPUs": 4, "the busiest GPU": 2, "memory of all GPUs": 2}, "wide and narrow"
    assert "CPU, memory and GPU over time" in document.text


def test_the_clients_gpu_is_not_the_servers(tmp_path: Path) -> None:
    samples = (Sample(0.0, None, 0.1, 1.0, None, (0.5,), 2000.0),)
    elsewhere = {"cpu_ms_per_photo": None, "rss_mb": None, "server_busy": None, "samples": samples}
    run = write(tmp_path / "run", measurement(resources=elsewhere), target="10.0.0.1:8001")
    text = Document(page(run, Objective())).text
    assert "CPU of the client's machine over time" in text
    assert "the whole machine" not in text
    assert "of the GPU" not in text


_HOSTILE = "<script>alert('1')</script> \" onload=\"x\x00\x1b[2J\x9b\u202e"


def test_names_with_markup_quotes_and_control_characters_are_harmless(tmp_path: Path) -> None:
    failed = Failure(setting(model_config_name=_HOSTILE), Round("a", 1), "poisson", 1.7e9, _HOSTILE)
    text = page(
        write(
            tmp_path / "odd",
            measurement(setting(model_config_name=_HOSTILE)),
            measurement(setting(model_config_name="cpu")),
            failed,
            model="<b>" + _HOSTILE,
            command=("clip-profile", "sweep", "--photos", "<i>"),
        ),
        Objective(),
    )
    document = Document(text)
    assert "script" not in {tag for tag, _ in document.tags}
    assert "<i>" not in text
    assert not [name for _, attributes in document.tags for name in attributes if name.startswith("on")]
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", text)
    assert (
        "&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt; &#34; onload=&#34;x\\x00\\x1b[2J\\x9b\\u202e" in text
    )
    assert "&lt;b&gt;" in text
    assert "&lt;script" in "".join(re.findall(r"<circle.*?</circle>", text)), "in charts, too"
    assert printable("a\udcff\t\n") == "a\\udcff\t\n", "a file name that is not UTF-8"


def test_a_long_sweep_stays_below_2_mb(tmp_path: Path) -> None:
    points = Space.for_cores(16, request_batch=(1, 2, 4)).points()[:1000]
    records = [measurement(at, photos_per_s=5 + n / 100) for n, at in enumerate(points)]
    path = tmp_path / "report.html"
    assert write_report(write(tmp_path / "run", *records), Objective(), path) < 2_000_000
    assert len(points) == 1000
    assert [each.name for each in tmp_path.iterdir() if each.suffix == ".html"] == ["report.html"]


def test_an_empty_run_has_no_report(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match="no measurements yet"):
        page(write(tmp_path / "run"), Objective())


def test_a_run_without_observations_has_a_report(tmp_path: Path) -> None:
    """A running server elsewhere: no processes of its own to look at."""
    elsewhere = {"cpu_ms_per_photo": None, "rss_mb": None, "server_busy": None, "samples": ()}
    run = write(tmp_path / "run", measurement(resources=elsewhere), target="10.0.0.1:8001")
    text = Document(page(run, Objective())).text
    assert "memory (RSS)" not in text
    assert "over time" not in text


def test_a_server_elsewhere_is_not_said_to_be_on_this_machine(tmp_path: Path) -> None:
    versions = {"python": "3.11", "tritonserver": "2.75.0"}
    run = write(tmp_path / "run", measurement(), target="10.0.0.1:8001", versions=versions)
    text = Document(page(run, Objective())).text
    assert "the server at 10.0.0.1:8001 · " in text
    assert "the client on 2 cores of A CPU" in text
    assert "Versions on the client's machine: python 3.11. On the server: Triton 2.75.0." in text


@given(st.floats(0, 1e6), st.floats(1e-3, 1e6), st.integers(2, 12))
def test_ticks_are_round_numbers_and_span_the_values(low: float, span: float, most: int) -> None:
    found = chart.ticks(low, low + span, most)
    assert found[0] <= low + 1e-6 * span
    assert found[-1] >= low + span - 1e-6 * max(span, low)
    assert len(found) <= most + 3


@given(st.lists(st.tuples(st.floats(0.1, 1e5), st.floats(0.1, 1e4)), min_size=1, max_size=20))
def test_everything_is_drawn_inside_of_the_frame(values: list[tuple[float, float]]) -> None:
    points = [chart.Point(x, y, "single", "a < b", y_half=y) for x, y in values]
    lines = [chart.Line(values, "accent", "line")]
    svg = chart.xy(points, lines, width=330, height=300, x_title="x", y_title="y", x_mark=(50.0, "mark"))
    across = [float(x) for x in re.findall(r' c?x[12]?="([^"]+)"', svg)]
    down = [float(y) for y in re.findall(r' c?y[12]?="([^"]+)"', svg)]
    for path in re.findall(r'points="([^"]+)"', svg):
        for x, _, y in (pair.partition(",") for pair in path.split()):
            across.append(float(x))
            down.append(float(y))
    assert all(0 <= x <= 330 for x in across), across
    assert all(0 <= y <= 300 for y in down), down
    assert svg.count("<circle") == len(points)
    assert len(across) == len(down) > 4 * len(points)
    assert "a &lt; b" in svg


def test_a_long_name_takes_several_lines_on_a_phone() -> None:
    row = chart.Bar(
        "2 preprocess x 1 thread, 1 encoder x 2 threads, batch 64, delay 2 ms", [("queue", 1.0, "")]
    )
    names = [chart.bars([row], width=width, unit="ms").count('class="name"') for width in (800, 330)]
    assert names == [1, 2]


def test_bars_are_as_long_as_their_values() -> None:
    rows = [
        chart.Bar("one", [("queue", 30.0, ""), ("embed", 60.0, "")]),
        chart.Bar("two", [("queue", 45.0, "")]),
    ]
    lengths = [
        float(n) for n in re.findall(r'width="([\d.]+)" height="16"', chart.bars(rows, width=330, unit="ms"))
    ]
    assert lengths[0] / lengths[1] == pytest.approx(0.5, abs=0.01)
    assert lengths[2] / lengths[1] == pytest.approx(0.75, abs=0.01)
    assert sum(lengths[:2]) <= 330


def test_decode_has_its_own_bar_if_the_server_reports_it(run: RunFolder, tmp_path: Path) -> None:
    assert "bar decode" not in page(run, Objective())
    told = dataclasses.replace(measurement(), decode_ms=45.0, preprocess_ms=15.0)
    text = page(write(tmp_path / "told", told), Objective())
    assert "<title>decode: 45 ms</title>" in text
    assert "<title>preprocess: 15 ms</title>" in text


def test_a_run_that_was_cut_off_and_went_on_has_the_same_report(run: RunFolder, tmp_path: Path) -> None:
    records: list[Measurement | Failure] = [*run.measurements, *run.failures]
    write(tmp_path / "resumed", *records[:4])
    with (tmp_path / "resumed" / "measurements.jsonl").open("a") as file:
        file.write('{"kind":"measu')
    resumed = write(tmp_path / "resumed", *records[4:])
    assert page(resumed, Objective(500)) == page(run, Objective(500))


def test_every_figure_of_repeats_has_its_spread(run: RunFolder) -> None:
    text = page(run, Objective(500))
    assert "<td>15.2 ± 0.2</td>" in text, "Student's interval of 15.1, 15.2 and 15.3"
    assert "<td>6.0</td>" in text, "measured once"
    assert re.search(r"<text[^>]*>\d+ ± 0 ms</text>", text), "the bars' sums"


def test_tail_percentiles_cover_the_requests_of_all_runs(tmp_path: Path) -> None:
    slow = (*[100.0] * 39, 900.0)
    runs = [
        measurement(BASE, round=n, arrival="poisson", latencies_ms=slow, requests=len(slow))
        for n in (1, 2, 3)
    ]
    text = page(write(tmp_path / "run", measurement(), *runs), Objective())
    row = re.search(r"<tr><td>[^<]*</td><td>7.0 ± 0.0</td>(.*?)</tr>", text)
    assert row is not None
    p99 = percentile(3 * slow, 99)
    cells = re.findall(r"<td>([^<]*)</td>", row[1])
    assert cells == ["100 ± 0", "100 ± 0", "100 ± 0", f"{p99:.0f} ± 0", "120"]
    few = page(write(tmp_path / "few", measurement(), runs[0]), Objective())
    assert "<td>100</td><td>-</td><td>40</td>" in few, "the maximum of 40 is no p99"
    many = [measurement(BASE, round=n, arrival="poisson", p95_ms=n * 100, requests=9999) for n in (1, 2)]
    kept_nowhere = open_loop(many, 95)
    assert kept_nowhere is not None
    assert kept_nowhere.mean == 150, "what perf_analyzer told stands for them"


def test_a_run_that_failed_is_named_with_its_round_and_arrival(tmp_path: Path) -> None:
    failed = Failure(BASE, Round("a", 2), "poisson", 1.7e9, "it died")
    text = Document(page(write(tmp_path / "run", measurement(round=1), failed), Objective())).text
    assert f"{BASE.describe()}, round 2, Poisson arrivals: it died" in text


def test_the_setting_is_served_as_the_report_says(tmp_path: Path) -> None:
    def served(name: str) -> list[list[str]]:
        text = page(
            write(tmp_path / (name or "gpu"), measurement(setting(model_config_name=name))), Objective()
        )
        shown = [Document(part).text for part in re.findall(r"<pre>.*?</pre>", text)]
        return [shlex.split(command) for command in shown if command.startswith("clip-serve ")]

    (parts,) = served("cpu")
    assert parts[parts.index("--model-config-name") + 1] == "cpu"
    assert parts[parts.index("--preprocess-threads") + 1] == "1"
    assert served("") == [], "clip-serve has no backend for it"
