"""Settings and fixtures of all tests."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# A busy machine takes longer over one example than Hypothesis expects.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

# Several workers share the cores, so a BLAS or OpenMP pool of one thread per core in each of them only makes
# them wait for each other. Set before NumPy and torch are imported.
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

# A shell that starts `make test` in the background has it ignore Ctrl-C, and all its children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _own_signal_handlers() -> Iterator[None]:
    """A command that a test runs in this process leaves no handler behind for the next test."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def repository() -> Path:
    """An exported ViT-B-32 with seeded random weights, for tests of the embeddings themselves."""
    return _exported("CLIP_TEST_REPOSITORY", "build/test/model_repository")


@pytest.fixture(scope="session")
def small_repository() -> Path:
    """An exported ViT-tiny-32 (see testing/towers), for all other tests."""
    return _exported("CLIP_SMALL_REPOSITORY", "build/test/small_repository")


def _exported(variable: str, default: str) -> Path:
    path = Path(os.environ.get(variable, default))
    if not (path / "clip_image" / "config.pbtxt").exists():
        pytest.fail(f"{path} is missing. Export it with: make {default}/.ready")
    return path
