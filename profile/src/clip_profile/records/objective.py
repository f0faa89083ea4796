"""What is wanted: photos a second, as many as a bound on the 95th percentile of the latency allows."""

from __future__ import annotations

from dataclasses import dataclass

from clip_profile.records.measurement import Measurement


@dataclass(frozen=True)
class Objective:
    """`p95_ms` None: only throughput counts. `min_photos_per_s` 0: any throughput will do."""

    p95_ms: float | None = None
    min_photos_per_s: float = 0.0

    def value(self, measurement: Measurement) -> float:
        """For the search: the throughput, less where the bound is broken, the more the farther."""
        if self.p95_ms is None or measurement.p95_ms <= self.p95_ms:
            return measurement.photos_per_s
        return float(measurement.photos_per_s * (self.p95_ms / measurement.p95_ms) ** 2)

    def met(self, photos_per_s: float, p95_ms: float) -> bool:
        return photos_per_s >= self.min_photos_per_s and (self.p95_ms is None or p95_ms <= self.p95_ms)

    def describe(self) -> str:
        parts = [f"p95 of at most {self.p95_ms:g} ms"] if self.p95_ms is not None else []
        parts += [f"at least {self.min_photos_per_s:g} photos/s"] if self.min_photos_per_s else []
        return " and ".join(parts) or "highest throughput"
