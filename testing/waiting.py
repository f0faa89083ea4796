"""Waits for conditions, with a timeout that does not depend on how busy the machine is."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE_S = 300.0
"""Seconds. Only a fault takes that long: use it for every timeout in a test."""


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Returns once `condition()` is true. Raises AssertionError, naming `what`, after PATIENCE_S."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, f"not within {PATIENCE_S:.0f} s: {what}"
        time.sleep(0.02)
