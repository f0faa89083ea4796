"""Each distribution alone in an empty environment: imports, commands' help, and its unit tests."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tools.environment import ROOT, settings_of_pip

_UV = ROOT / ".venv" / "bin" / "uv"
_CODE = """
import importlib.util, sys
import {module}
print(*[name for name in {names!r} if importlib.util.find_spec(name)])
"""
_WITHOUT_EXTRA = """
from clip_client import ClipClient, MissingExtra
try:
    ClipClient(decode="client")
except MissingExtra as error:
    print(error)
"""


@dataclass(frozen=True)
class Environment:
    """A virtual environment with nothing but what is installed into it here."""

    folder: Path

    def install(self, *packages: str) -> None:
        install = ("pip", "install", "-q", "-p", str(self.folder), *settings_of_pip())
        self._run(_UV, *install, "-c", "constraints.txt", *packages)

    def has(self, module: str, names: Sequence[str]) -> list[str]:
        """Those of the packages `names` that are installed, if `import module` works without a warning."""
        return self.run("python", "-W", "error", "-c", _CODE.format(module=module, names=names)).split()

    def run(self, program: str, *arguments: str) -> str:
        return self._run(self.folder / "bin" / program, *arguments)

    def test(self, distribution: str) -> None:
        self.run("python", "-m", "pytest", "-q", "-p", "no:cacheprovider", f"tests/unit/{distribution}")

    def _run(self, *command: str | Path) -> str:
        # Without the variables of `make test`; PYTHONPATH would bring the other distributions.
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(command, cwd=ROOT, env=kept, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    python = ROOT / ".venv" / "bin" / "python"
    subprocess.run([_UV, "venv", "-q", "-p", python, tmp_path / "env"], check=True)
    return Environment(tmp_path / "env")


_HEAVY = ("torch", "cv2", "PIL", "pyarrow", "obstore", "onnxruntime", "clip_preprocess", "clip_serving")
_TESTS = ("pytest>=8.2,<10", "hypothesis>=6.100,<7")
_PICTURES = ("pillow-heif>=1,<2", "scikit-image>=0.22,<1")
"""What testing.pictures makes its pictures from."""


def test_the_client(environment: Environment) -> None:
    environment.install("./client")
    assert environment.has("clip_client", _HEAVY) == []
    assert "gs://" in environment.run("clip-embed", "--help")
    environment.install("./client[parquet,stores]", *_TESTS)
    environment.test("client")
    assert environment.has("clip_client", _HEAVY) == ["pyarrow", "obstore"]
    assert "./client[decode]" in environment.run("python", "-c", _WITHOUT_EXTRA)
    environment.install("./preprocess", "./client[decode]")
    environment.test("decode")


def test_preprocess(environment: Environment) -> None:
    environment.install("./preprocess")
    assert environment.has("clip_preprocess", _HEAVY) == ["PIL", "clip_preprocess"]
    environment.install("./preprocess[fast,heic]", *_TESTS, *_PICTURES)
    environment.test("preprocess")


def test_serving(environment: Environment) -> None:
    environment.install("./preprocess", "./serving")
    assert environment.has("clip_serving", _HEAVY) == ["PIL", "clip_preprocess", "clip_serving"]
    environment.install("./client", "./preprocess[fast]", "./serving[cpu,render,local]", *_TESTS)
    assert "--repository" in environment.run("clip-render", "--help")
    environment.test("serving")


def test_profile(environment: Environment) -> None:
    environment.install("./client", "./preprocess[fast]", "./serving[local]", "./profile")
    assert environment.has("clip_profile", ("torch", "cv2", "pyarrow")) == []
    for command in ("clip-profile", "clip-serve", "clip-perf-input"):
        assert "usage: " in environment.run(command, "--help")
    environment.install("./client[parquet]", "pip", *_TESTS, *_PICTURES)  # pip downloads perf_analyzer
    environment.test("profile")


def test_search(environment: Environment) -> None:
    environment.install("./client[parquet]", "./search")
    assert environment.has("clip_search", ("torch", "cv2", "PIL", "faiss", "clip_serving")) == []
    assert "DATASET" in environment.run("clip-search", "query", "--help")
    environment.install("./search[images,index,serve]", *_TESTS)
    environment.test("search")


def test_batch(environment: Environment) -> None:
    environment.install("./client[parquet]", "./batch")
    assert environment.has("clip_batch", ("torch", "cv2", "PIL", "clip_preprocess", "clip_serving")) == []
    assert "SOURCE" in environment.run("clip-batch", "plan", "--help")
    environment.install(*_TESTS)
    environment.test("batch")


def test_the_export_shows_its_help_before_torch_is_loaded(environment: Environment) -> None:
    """Its own environment has torch, and runs the golden tests."""
    environment.install("./preprocess[fast]", "./serving[render]")
    environment.install("--no-deps", "./export")
    assert "ViT-B-32" in environment.run("clip-export", "--help")
