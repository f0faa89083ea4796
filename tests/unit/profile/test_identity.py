"""What is served is told apart by its configs, its weights and its version."""

from __future__ import annotations

from pathlib import Path

import pytest

from clip_profile.records.identity import of_repository
from clip_serving.errors import ConfigurationError
from testing.repositories import default_spec, rendered_repository


def test_another_config_is_another_identity(tmp_path: Path) -> None:
    rendered_repository(tmp_path / "a")
    rendered_repository(tmp_path / "b")
    first = of_repository(tmp_path / "a")
    assert of_repository(tmp_path / "b") == first, "wherever it lies"
    rendered_repository(tmp_path / "b", quality="fast")
    second = of_repository(tmp_path / "b")
    assert {name for name, value in second.served().items() if value != first.served()[name]} == {"configs"}


def test_the_model_the_weights_and_the_version_are_those_of_the_spec(tmp_path: Path) -> None:
    rendered_repository(tmp_path)
    spec, found = default_spec(), of_repository(tmp_path)
    assert found.model == f"{spec.model} ({spec.pretrained})"
    assert (found.weights_sha256, found.encoder_version) == (spec.weights_sha256, "1")
    with pytest.raises(ConfigurationError, match="holds no exported encoder"):
        of_repository(tmp_path / "nowhere")
