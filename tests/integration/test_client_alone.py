"""The client's wheel in an empty environment: it imports, shows help, stays thin, and passes its tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parent.parent.parent


def run(*command: str | Path, cwd: Path, status: int = 0) -> str:
    """Its output, standard error included."""
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, stdout=-1, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == status, done.stdout
    return done.stdout


@pytest.mark.slow
def test_the_wheel_alone(tmp_path: Path) -> None:
    pip = (sys.executable, "-m", "pip", "wheel", "-qq", "--no-deps")
    run(*pip, "-w", tmp_path, _ROOT / "client", cwd=tmp_path)
    (wheel,) = tmp_path.glob("clip_triton_client-*.whl")
    run(sys.executable, "-m", "venv", tmp_path / "empty", cwd=tmp_path)
    python = tmp_path / "empty" / "bin" / "python"
    install = (python, "-m", "pip", "install", "-qq", "-c", _ROOT / "constraints.txt")
    run(*install, wheel, cwd=tmp_path)
    code = (
        "import importlib.util, clip_client\n"
        "present = [n for n in ('torch', 'cv2', 'PIL', 'pyarrow') if importlib.util.find_spec(n)]\n"
        "print(clip_client.ClipClient.__name__, present)"
    )
    assert run(python, "-W", "error", "-c", code, cwd=tmp_path).strip() == "ClipClient []"
    embed = python.parent / "clip-embed"
    assert "gs://bucket/prefix" in run(embed, "--help", cwd=tmp_path)
    check = run(embed, "--check", "127.0.0.1:9", "--wait", "0.2", cwd=tmp_path, status=2)
    assert "no answer from the server" in check
    without = run(embed, ".", "--out", "x.parquet", cwd=tmp_path, status=2)
    assert "pip install './client[parquet]'" in without
    run(*install, f"{wheel}[parquet]", "pytest", "hypothesis", cwd=tmp_path)
    passed = run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/unit/client", cwd=_ROOT)
    assert " passed" in passed
