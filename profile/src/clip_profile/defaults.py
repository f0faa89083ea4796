"""Every default of clip-profile's options."""

from __future__ import annotations

SWEEP_BUDGET_MIN = 15.0
SWEEP_FINALISTS = 3
SWEEP_ROUNDS = 3
SWEEP_LOAD_SHARE = 0.7
"""Poisson arrivals at this share of a finalist's closed-loop throughput."""

STAGES_SECONDS = 20.0
"""How long `clip-profile stages` measures, after the warm-up."""
STAGES_WARM_UP_S = 2.0
"""At least; every request in flight is answered once before anything counts."""
STAGES_IMAGES_PER_REQUEST = 1
"""As clip-embed sends them."""
