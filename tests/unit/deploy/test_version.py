"""VERSION is the one place of the version: distributions and images follow it, the changelog names it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
VERSION = (ROOT / "VERSION").read_text(encoding="utf-8").strip()
DISTRIBUTIONS = sorted(path.parent.name for path in ROOT.glob("*/pyproject.toml"))


def test_the_version_is_a_release_or_a_development_version() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+(rc\d+|\.dev0)?", VERSION)


@pytest.mark.parametrize("folder", DISTRIBUTIONS)
def test_a_distribution_takes_its_version_and_license_from_the_root(folder: str) -> None:
    settings = (ROOT / folder / "pyproject.toml").read_text(encoding="utf-8")
    assert 'dynamic = ["version"]' in settings
    assert '[tool.hatch.version]\npath = "../VERSION"' in settings
    assert (ROOT / folder / "LICENSE").resolve() == ROOT / "LICENSE"


_SERVICE = {"clip-triton-server", "clip-triton-export"}


@pytest.mark.parametrize(
    ("file", "wanted"),
    [
        ("docker-compose.yml", _SERVICE),
        ("deploy/kubernetes/clip-triton.yaml", _SERVICE),
        ("deploy/kubernetes/tiers.yaml", {"clip-triton-server"}),
        ("deploy/kubernetes/clip-batch.yaml", {"clip-triton-batch"}),
    ],
)
def test_images_carry_the_version(file: str, wanted: set[str]) -> None:
    text = (ROOT / file).read_text(encoding="utf-8")
    images = re.findall(r"image: (clip-triton-\w+):(\S+)", text)
    assert {name for name, _ in images} == wanted
    assert {version for _, version in images} == {VERSION}


def test_a_release_has_its_section_in_the_changelog() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    sections = re.findall(r"^## (\S+)", changelog, re.MULTILINE)
    assert sections[0] == "Unreleased"
    if ".dev" not in VERSION:
        assert sections[1] == VERSION
