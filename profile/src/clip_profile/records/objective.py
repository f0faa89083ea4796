"""The goal of a sweep: the highest throughput within a bound on the p95 latency."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class _Figures(Protocol):
    """Of a measurement, or of a setting's result."""

    @property
    def photos_per_s(self) -> float: ...

    @property
    def p95_ms(self) -> float: ...


@dataclass(frozen=True)
class Objective:
    """Without `p95_ms` only throughput counts; with `min_photos_per_s` 0 any throughput is enough."""

    p95_ms: float | None = None
    min_photos_per_s: float = 0.0

    def value(self, one: _Figures) -> float:
        """For the search: the throughput, reduced the more the p95 exceeds the bound."""
        if self.p95_ms is None or one.p95_ms <= self.p95_ms:
            return one.photos_per_s
        return float(one.photos_per_s * (self.p95_ms / one.p95_ms) ** 2)

    def met(self, one: _Figures) -> bool:
        return self.miss(one) <= 1

    def miss(self, one: _Figures) -> float:
        """By what factor the objective is missed; 1 if it is met."""
        late = one.p95_ms / self.p95_ms if self.p95_ms else 1.0
        slow = self.min_photos_per_s / one.photos_per_s
        return max(late, 1.0) * max(slow, 1.0)

    def describe(self) -> str:
        parts = [f"p95 of at most {self.p95_ms:g} ms"] if self.p95_ms is not None else []
        parts += [f"at least {self.min_photos_per_s:g} photos/s"] if self.min_photos_per_s else []
        return " and ".join(parts) or "highest throughput"
