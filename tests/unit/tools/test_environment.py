"""Set-up runs before anything is installed, and passes pip's settings on to uv, which reads no pip.conf."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tools import environment


@pytest.fixture(autouse=True)
def _own_settings_of_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SSL_CERT_FILE", "kept.pem")
    file = tmp_path / "pip.conf"
    file.write_text(
        "[global]\nextra-index-url =\n    https://a.example/simple\n    https://b.example/simple\n"
    )
    monkeypatch.setenv("PIP_CONFIG_FILE", str(file))


def test_indexes_are_searched_as_pip_does() -> None:
    options = environment.settings_of_pip()
    assert "--extra-index-url=https://a.example/simple" in options
    assert "--extra-index-url=https://b.example/simple" in options
    assert "--index-strategy=unsafe-best-match" in options


def test_variables_win_over_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "https://c.example/simple")
    monkeypatch.setenv("PIP_CONSTRAINT", "/etc/constraints.txt")
    options = environment.settings_of_pip()
    assert "--extra-index-url=https://c.example/simple" in options
    assert "--extra-index-url=https://a.example/simple" not in options
    assert "--constraint=/etc/constraints.txt" in options


def test_certificates_of_pip_are_uvs_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_CERT", "pip.pem")
    environment.settings_of_pip()
    assert os.environ["SSL_CERT_FILE"] == "kept.pem", (
        "a certificate file that the user set for all tools wins"
    )
    monkeypatch.delenv("SSL_CERT_FILE")
    environment.settings_of_pip()
    assert os.environ["SSL_CERT_FILE"] == "pip.pem"


def test_torchs_index_gets_the_pinned_torch() -> None:
    assert environment.pinned("torch") in (environment.ROOT / "constraints.txt").read_text().split()


@pytest.mark.parametrize("module", ["tools.environment", "tools.old_numpy"])
def test_set_up_needs_no_package(module: str) -> None:
    paths = os.pathsep.join([str(environment.ROOT), str(environment.ROOT / "serving/src")])
    command = [sys.executable, "-S", "-c", f"import {module}"]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": paths})
