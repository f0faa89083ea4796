"""`clip-serve` as a process: what it warns about before it starts a server, and what it lacks."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from testing.repositories import rendered_repository
from testing.waiting import PATIENCE_S

_LOCAL = importlib.util.find_spec("psutil") is not None
needs_local = pytest.mark.skipif(not _LOCAL, reason="the extra `local` is not installed")


def clip_serve(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "clip_serving.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@needs_local
def test_it_warns_that_it_does_not_serve_edits_of_a_config(tmp_path: Path) -> None:
    repository = rendered_repository(tmp_path)
    path = repository / "clip_image_preprocess" / "config.pbtxt"
    path.write_text(path.read_text().replace("max_batch_size: 64", "max_batch_size: 12"))
    done = clip_serve("--repository", str(repository), "--model-config-name", "int7")
    assert done.returncode == 2
    assert "warning: clip_image_preprocess/config.pbtxt in" in done.stderr
    assert "clip-render --repository" in done.stderr


@needs_local
def test_it_warns_against_instances_past_the_cores(tmp_path: Path) -> None:
    done = clip_serve("--repository", str(tmp_path), "--preprocess-instances", "1000")
    assert done.returncode == 2
    assert "warning: preprocess instances x threads (1000 x 1) exceed the cores" in done.stderr
    assert "encoder instances" not in done.stderr


def test_without_its_extra_it_says_what_to_install() -> None:
    """A package that cannot be imported, as psutil is in an environment without the extra."""
    code = "import sys; sys.modules['psutil'] = None; import clip_serving.cli"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        "clip-serve: error: the package psutil is not installed. "
        "Install what clip-serve needs with: pip install 'clip-triton-serving[local]'\n"
    )


_SIGNALS = """
import random, signal
from queue import SimpleQueue
from clip_serving import cli
cli._POLL_S = 0.02
for _ in range(3000):
    stop = SimpleQueue()
    signal.signal(signal.SIGALRM, lambda number, frame: stop.put(number))
    signal.setitimer(signal.ITIMER_REAL, random.uniform(2e-6, 6e-5))
    cli._wait(stop, None, supervised=True)
"""


@needs_local
def test_a_signal_at_any_moment_ends_the_wait() -> None:
    """With threading.Event, a signal at the beginning of wait() was lost: set() waited for its own lock."""
    subprocess.run([sys.executable, "-c", _SIGNALS], timeout=PATIENCE_S, check=True)
