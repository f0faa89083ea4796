"""The client's wheel in an empty environment: it imports, it teaches, and it stays thin."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parent.parent.parent


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_wheel_alone(tmp_path: Path) -> None:
    run(
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-qq",
        "--no-deps",
        "-w",
        tmp_path,
        _ROOT / "client",
        cwd=tmp_path,
    )
    (wheel,) = tmp_path.glob("clip_triton_client-*.whl")
    run(sys.executable, "-m", "venv", tmp_path / "empty", cwd=tmp_path)
    python = tmp_path / "empty" / "bin" / "python"
    run(python, "-m", "pip", "install", "-qq", wheel, cwd=tmp_path)
    code = (
        "import importlib.util, clip_client\n"
        "present = [n for n in ('torch', 'cv2', 'PIL', 'pyarrow') if importlib.util.find_spec(n)]\n"
        "print(clip_client.ClipClient.__name__, present)"
    )
    assert run(python, "-W", "error", "-c", code, cwd=tmp_path).strip() == "ClipClient []"
    said = run(python.parent / "clip-embed", "--help", cwd=tmp_path)
    assert "gs://bucket/prefix" in said
    done = subprocess.run(
        [python.parent / "clip-embed", "--check", "127.0.0.1:9", "--wait", "0.2"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "no answer from the server" in done.stderr
