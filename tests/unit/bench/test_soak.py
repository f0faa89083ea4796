"""A soak that tests nothing must not pass."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from benchmarks import soak
from benchmarks.soak import STALL, Load, Sample, complaints, stalled
from clip_profile.report.html import render


class Client:
    """Embeds what is known, until it fails as a client whose server is gone does."""

    def __init__(self, *_: object, **__: object) -> None:
        self.left = 20

    def embed(self, photos: list[bytes]) -> list[Any]:
        return [np.ones(1) for _ in photos]

    def request(self, photos: list[bytes]) -> list[Any]:
        self.left -= 1
        if self.left < 0:
            raise ConnectionError("the server is gone")
        return [np.ones(1) for _ in photos]

    def close(self) -> None: ...


def samples(*photos: int) -> list[Sample]:
    return [Sample(float(second), n, 100.0, 10.0, 4) for second, n in enumerate(photos)]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Load:
    monkeypatch.setattr(soak, "ClipClient", Client)
    monkeypatch.setattr(soak, "camera_photos", lambda n, **_: [b"known"] * n)
    monkeypatch.setattr(soak, "corpus", lambda: [b"sound"])
    monkeypatch.setattr(soak, "mutations", lambda n, _: [b"mutated"] * n)
    return Load("an address")


def test_a_failing_client_is_reported(load: Load) -> None:
    with load:
        end = time.monotonic() + 60
        while load.loop.error is None and time.monotonic() < end:
            time.sleep(0.01)
    assert load.loop.photos > 0
    assert load.ends.total() == load.loop.photos / 2
    said = complaints(samples(10, 20), load, restarts=0)
    assert said == ["a client failed: ConnectionError: the server is gone"]


def test_a_stall_is_reported(load: Load) -> None:
    assert complaints(samples(0, 0), load, restarts=0) == ["no photo came back"]
    load.loop.photos = 100
    assert not stalled(samples(*[100] * STALL))
    assert not stalled(samples(*[98] * STALL, 100))
    still = samples(*range(100), *[100] * (STALL + 1))
    assert complaints(still, load, restarts=0) == [f"no photo came back for {STALL} s"]


def test_each_failing_criterion_counts(load: Load) -> None:
    load.loop.photos, load.wrong = 100, 2
    found = complaints(samples(0, 100), load, restarts=1)
    assert found == ["2 known photos came out wrong", "a server process died"]
    load.wrong = 0
    assert complaints(samples(0, 100), load, restarts=0) == []


def test_the_page_has_both_charts(load: Load) -> None:
    del load
    page = render("charts.html", title="a < b", charts=soak.charts(samples(0, 10, 20)))
    assert page.count("<svg") == 4, "each for a desk and for a phone"
    assert page.count("<polyline") == 6
    assert "<h1>a &lt; b</h1>" in page
