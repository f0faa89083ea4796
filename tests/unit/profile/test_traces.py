"""Triton's traces, read from a file that a real tritonserver wrote: six requests at once of one or two photos
to a server that lets one wait, so that four were refused and came again, and one that nobody named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from clip_profile.stages.traces import Attempt, RequestTrace, by_request, parse

_STEPS = ("clip_image_preprocess", "clip_image_encoder")
_SEEN = {
    "ours-0": (1.366038, 0.016720),
    "ours-1": (0.318952, 0.032944),
    "ours-2": (0.890172, 0.021491),
    "ours-3": (1.653333, 0.042149),
    "ours-4": (0.725929, 0.015759),
    "ours-5": (1.208388, 0.029654),
}
"""Of each request, as its client measured it: seconds until its answer, and of them decode and preprocess."""


@pytest.fixture(scope="module")
def records() -> list[dict[str, Any]]:
    file = Path(__file__).parent / "data" / "traces" / "traces.json.0"
    loaded: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
    return loaded


def test_a_request_at_the_server_is_a_little_shorter_than_at_its_client(
    records: list[dict[str, Any]],
) -> None:
    traces = by_request(parse(records, _STEPS))
    assert traces.keys() == _SEEN.keys()
    for name, (seconds, own) in _SEEN.items():
        assert 0 < seconds - traces[name].total_s < 0.02
        assert own < traces[name].preprocess_s, "its photos' own time is within their batch's"
    refused = {name for name, trace in traces.items() if trace.refused_s > 0}
    assert refused == {"ours-0", "ours-2", "ours-3", "ours-5"}
    assert traces["ours-4"].before_preprocess_s == pytest.approx(0.5346, abs=1e-4)
    assert traces["ours-4"].embed_s == pytest.approx(0.1652, abs=1e-4)


def test_a_request_may_be_refused_in_one_file_and_answered_in_the_next(records: list[dict[str, Any]]) -> None:
    whole = by_request(parse(records, _STEPS))
    # A file holds whole traces: the first records of a refused try, and all the rest.
    ids = {record["id"] for record in records if record.get("request_id") == "ours-3"}
    first = min(ids)
    files = [[record for record in records if (record["id"] == first) is mine] for mine in (True, False)]
    assert files[0]
    attempts = [one for file in files for one in parse(file, _STEPS)]
    assert by_request(attempts)["ours-3"] == whole["ours-3"]


def test_other_models_and_unnamed_requests_are_not_ours(records: list[dict[str, Any]]) -> None:
    assert all(one.request_id for one in parse(records, _STEPS))
    assert by_request(parse(records, ("resnet", "clip_image_encoder"))) == {}
    named = [{**record, "request_id": ""} for record in records]
    assert parse(named, _STEPS) == []


def test_the_parts_lie_between_the_moments() -> None:
    attempts = [Attempt("a", (1_000_000_000,)), Attempt("a", (3_000_000_000, 3_100_000_000, 3_300_000_000,
        3_700_000_000, 4_500_000_000))]  # fmt: skip
    assert by_request(attempts)["a"] == RequestTrace(2.0, 0.1, 0.2, 0.4, 0.8)
    assert by_request(attempts)["a"].total_s == pytest.approx(3.5)
    assert by_request(attempts[:1]) == {}, "never answered"
    assert by_request([Attempt("b", (5, 4, 6, 7, 8))]) == {}, "time does not run backwards"
