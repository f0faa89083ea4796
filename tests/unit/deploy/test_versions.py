"""All distributions and images carry one version: they are released together."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def test_distributions_and_images_have_one_version() -> None:
    found = {
        path.parent.name: re.findall(r'^version = "(.+)"$', path.read_text(encoding="utf-8"), re.M)
        for path in ROOT.glob("*/pyproject.toml")
    }
    for name in ("docker-compose.yml", "deploy/kubernetes/clip-triton.yaml"):
        text = (ROOT / name).read_text(encoding="utf-8")
        found[name] = re.findall(r"image: clip-triton-\w+:(\S+)", text)
        assert found[name], name
    assert len(found) >= 7
    assert {version for versions in found.values() for version in versions} == {"0.1.0"}, found
    assert all(found.values()), found
