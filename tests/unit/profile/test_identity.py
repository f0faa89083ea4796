"""What is served is told apart by its configs, its weights and its version."""

from __future__ import annotations

from pathlib import Path

import pytest

from clip_profile.records.identity import of_repository
from clip_serving.errors import ConfigurationError
from clip_serving.repository.deployment import DeploymentSettings
from clip_serving.repository.render import write_repository
from clip_serving.repository.spec import ModelSpec
from tools.render_default import SPEC


def render(root: Path, **deployment: object) -> None:
    spec = ModelSpec.load(SPEC)
    write_repository(root, spec, DeploymentSettings(**deployment))  # type: ignore[arg-type]
    (root / "clip_image_encoder" / "1").mkdir(exist_ok=True)
    (root / "clip_image_encoder" / "1" / "spec.json").write_text(spec.to_json())


def test_another_config_is_another_identity(tmp_path: Path) -> None:
    render(tmp_path / "a")
    render(tmp_path / "b")
    first = of_repository(tmp_path / "a")
    assert of_repository(tmp_path / "b") == first, "wherever it lies"
    render(tmp_path / "b", quality="fast")
    second = of_repository(tmp_path / "b")
    assert {name for name, value in second.served().items() if value != first.served()[name]} == {"configs"}


def test_the_model_the_weights_and_the_version_are_those_of_the_spec(tmp_path: Path) -> None:
    render(tmp_path)
    spec, found = ModelSpec.load(SPEC), of_repository(tmp_path)
    assert found.model == f"{spec.model} ({spec.pretrained})"
    assert (found.weights_sha256, found.encoder_version) == (spec.weights_sha256, "1")
    with pytest.raises(ConfigurationError, match="holds no exported encoder"):
        of_repository(tmp_path / "nowhere")
