"""Which tokenizer a version has, and what is said if it cannot be read."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from clip_serving.errors import ConfigurationError
from clip_serving.text.load import load_tokenizer


def test_without_the_package_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ConfigurationError, match=r"not installed.*\./serving\[tokenizers\]"):
        load_tokenizer(tmp_path, 77, "lower")


def test_a_version_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot read the vocabulary .*merges\.txt\.gz"):
        load_tokenizer(tmp_path, 77, "lower")
