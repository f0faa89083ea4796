"""Stage times out of the origin's log lines and out of Triton's metrics."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.systems import origin_totals, photo_totals
from clip_profile.observe.metrics import parse_metrics

_LOG = """\
2026-01-01 10:00:00,000 17 worker ready
2026-01-01 10:00:01,000 17 stage=load n=8 min=1.00 mean=10.00 max=30.00
2026-01-01 10:00:01,000 17 stage=load+decode n=1 min=90.00 mean=90.00 max=90.00
2026-01-01 10:00:02,000 18 stage=load n=2 min=1.00 mean=20.00 max=30.00
"""
_METRICS = """\
# HELP clip_decode_seconds Time to decode one photo
clip_decode_seconds_count{model="clip_image_preprocess",version="1"} 30
clip_decode_seconds_sum{model="clip_image_preprocess",version="1"} 0.9
clip_decode_seconds_bucket{model="clip_image_preprocess",version="1",le="0.01"} 3
clip_preprocess_seconds_count{model="clip_image_preprocess",version="1"} 29
clip_preprocess_seconds_sum{model="clip_image_preprocess",version="1"} 2.9e-1
clip_photos_total{format="jpeg"} 30
"""


def test_the_origins_stages_add_up_over_its_workers(tmp_path: Path) -> None:
    log = tmp_path / "origin.log"
    log.write_text(_LOG)
    totals = origin_totals(log)
    assert set(totals) == {"load", "load+decode"}
    assert totals["load"] == pytest.approx((0.12, 10))
    assert totals["load+decode"] == pytest.approx((0.09, 1))


def test_our_stages_come_from_the_histograms() -> None:
    assert photo_totals(parse_metrics(_METRICS)) == {"decode": (0.9, 30), "preprocess": (0.29, 29)}
