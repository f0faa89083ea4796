"""The parser against real outputs of perf_analyzer 2.51 on the ensemble, recorded as they were written.

`closed`: 4 requests in flight with 2 photos each. `poisson`: arrivals from a file of intervals, with
--profile-export-file.
"""

from __future__ import annotations

import csv
import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from clip_profile.errors import ProfileError
from clip_profile.load.perf_files import read_latencies_ms, read_report

_DATA = Path(__file__).parent / "data"


@pytest.fixture
def requests_file(tmp_path: Path) -> Path:
    path = tmp_path / "requests.json"
    path.write_bytes(gzip.decompress((_DATA / "poisson" / "requests.json.gz").read_bytes()))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(_DATA / "closed", tmp_path / "closed"))


def test_a_closed_loops_report() -> None:
    report = read_report(_DATA / "closed")
    assert report.photos_per_s == 7.99211
    assert report.p95_ms == pytest.approx(1310.581)
    assert report.p50_ms <= report.p90_ms <= report.p95_ms <= report.p99_ms
    # Queue and compute of both models are inside of what the client waited for.
    assert report.stages["embed"].compute_ms > report.stages["preprocess"].compute_ms > 0
    assert 0 < report.transport_ms < 0.2 * report.mean_ms


def test_an_open_loops_report_has_the_same_columns() -> None:
    report = read_report(_DATA / "poisson")
    assert report.photos_per_s == 4.62186
    assert 0 < report.transport_ms < 0.2 * report.mean_ms


def test_each_requests_latency_agrees_with_the_report(requests_file: Path) -> None:
    latencies, report = read_latencies_ms(requests_file), read_report(_DATA / "poisson")
    assert np.mean(latencies) == pytest.approx(report.mean_ms, rel=0.01)
    assert min(latencies) <= report.p50_ms <= max(latencies)


def test_a_request_file_is_read_although_it_is_not_json(requests_file: Path) -> None:
    """It holds the photos' bytes as they are."""
    with pytest.raises(UnicodeDecodeError):
        json.loads(requests_file.read_bytes().decode())
    assert read_latencies_ms(requests_file)


def test_a_photo_that_looks_like_a_request_is_not_one(requests_file: Path) -> None:
    before = read_latencies_ms(requests_file)
    text = requests_file.read_bytes()
    photo = rb"{\"timestamp\":1,\"response_timestamps\":[99999999999999999999]"
    requests_file.write_bytes(text.replace(rb'"image":"', rb'"image":"' + photo))
    assert read_latencies_ms(requests_file) == before


@pytest.mark.parametrize("data", [b"", b"{}", b'{"window_boundaries":[1]}'])
def test_a_request_file_of_something_else_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "requests.json").write_bytes(data)
    with pytest.raises(ProfileError, match=r"requests\.json"):
        read_latencies_ms(tmp_path / "requests.json")


def test_a_missing_report_is_named(folder: Path) -> None:
    (folder / "report.csv").unlink()
    with pytest.raises(ProfileError, match=r"wrote no report\.csv"):
        read_report(folder)


def test_a_missing_model_is_named(folder: Path) -> None:
    (folder / "clip_image_encoder_v1.report.csv").unlink()
    with pytest.raises(ProfileError, match="nothing about clip_image_encoder"):
        read_report(folder)


@pytest.mark.parametrize("column", ["Inferences/Second", "p95 latency"])
def test_another_versions_columns_are_named(folder: Path, column: str) -> None:
    path = folder / "report.csv"
    path.write_text(path.read_text().replace(column, "something new"))
    with pytest.raises(ProfileError, match=f"no number in column '{column}'"):
        read_report(folder)


def test_a_report_of_several_loads_is_refused(folder: Path) -> None:
    path = folder / "report.csv"
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    path.write_text("\n".join(",".join(row) for row in [*rows, rows[-1]]))
    with pytest.raises(ProfileError, match="2 rows where one load"):
        read_report(folder)
