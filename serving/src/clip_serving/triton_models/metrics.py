"""The Prometheus metrics of clip_image_preprocess, beside Triton's own.

Each instance is a process; Triton adds up what they report under one name. Models with a name have a label of
their own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import triton_python_backend_utils as pb_utils

from clip_preprocess import Outcome
from clip_serving import defaults

_SECONDS = [0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0]
"""Upper bounds; a phone's photo at the default quality falls in the middle."""


class PhotoMetrics:
    """Reports counters once per batch and histograms once per photo: each report is a message to Triton."""

    def __init__(self, ensemble: str) -> None:
        def family(name: str, description: str, kind: Any) -> Any:
            return pb_utils.MetricFamily(name=name, description=description, kind=kind)

        counter, histogram = pb_utils.MetricFamily.COUNTER, pb_utils.MetricFamily.HISTOGRAM
        self._families = {
            "photos": family("clip_photos_total", "Photos seen, by format", counter),
            "errors": family("clip_photo_errors_total", "Photos with an error, by code", counter),
            "notices": family("clip_notices_total", "Photos with a notice, by code", counter),
            "bytes": family("clip_photo_bytes_total", "Encoded bytes seen", counter),
            "pixels": family("clip_photo_pixels_total", "Pixels decoded", counter),
        }
        self._histogram_families = [
            family("clip_decode_seconds", "Time to decode one photo", histogram),
            family("clip_preprocess_seconds", "Time to turn, resize and crop one photo", histogram),
        ]
        self._labels = {} if ensemble == defaults.ENSEMBLE else {"model": ensemble}
        self._decode, self._preprocess = (
            each.Metric(labels=self._labels, buckets=_SECONDS) for each in self._histogram_families
        )
        self._counters: dict[tuple[str, str, str], Any] = {}

    def record(self, images: Sequence[bytes], outcomes: Sequence[Outcome]) -> None:
        """Adds a batch."""
        for outcome in outcomes:
            self._decode.observe(outcome.decode_s)
            if outcome.valid:
                self._preprocess.observe(outcome.preprocess_s)
        for name, count in Counter(outcome.format or "unknown" for outcome in outcomes).items():
            self._add("photos", count, "format", name)
        for code, count in Counter(each.error.code.value for each in outcomes if each.error).items():
            self._add("errors", count, "code", code)
        for code, count in Counter(
            each.code.value for outcome in outcomes for each in outcome.notices
        ).items():
            self._add("notices", count, "code", code)
        self._add("bytes", sum(map(len, images)))
        self._add("pixels", sum(outcome.pixels for outcome in outcomes))

    def _add(self, family: str, amount: int, label: str = "", value: str = "") -> None:
        key = (family, label, value)
        if key not in self._counters:
            labels = {**self._labels, **({label: value} if label else {})}
            self._counters[key] = self._families[family].Metric(labels=labels)
        self._counters[key].increment(amount)
