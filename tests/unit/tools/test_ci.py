"""The CI workflow runs existing make targets on every supported Python."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from tools import environment

ROOT = Path(__file__).resolve().parents[3]


def _matrix() -> dict[str, Any]:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    matrix: dict[str, Any] = workflow["jobs"]["make"]["strategy"]["matrix"]
    return matrix


def test_every_target_is_in_the_makefile() -> None:
    matrix = _matrix()
    wanted = {
        target for row in [*matrix["targets"], *(more["targets"] for more in matrix["include"])]
        for target in row.split()
    }  # fmt: skip
    assert {"lint", "test", "test-slow"} <= wanted
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert wanted <= set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))


def test_every_supported_python_is_in_the_matrix() -> None:
    (major, first), (_, last) = environment.SUPPORTED
    assert _matrix()["python"] == [f"{major}.{minor}" for minor in range(first, last + 1)]
