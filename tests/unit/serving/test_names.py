"""Two sets of models in one repository: those without a name, and those of `--name large`."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from clip_serving.errors import ConfigurationError
from clip_serving.repository.cli import main as render
from clip_serving.repository.deployment import DEPLOYMENT_FILE, Deployment
from clip_serving.repository.families import check_set_name, families, family_of
from clip_serving.repository.families.image import IMAGE, ImageFamily
from clip_serving.repository.families.text import TextFamily
from clip_serving.repository.render import outdated_configs, write_repository
from clip_serving.repository.render import render as rendered
from clip_serving.repository.spec import SPEC_FILE
from clip_serving.repository.stage import Fit, InstanceLayout, refuse_other_backends, stage
from clip_serving.repository.versions import load_specs, served_version
from testing.repositories import default_spec, read_config, rendered_repository

LARGE = ImageFamily("large")
SPEC = dataclasses.replace(default_spec(), model="Large", embedding_dim=768)


@pytest.fixture
def both(tmp_path: Path) -> Path:
    root = rendered_repository(tmp_path / "repository")
    version = root / LARGE.encoder / "1"
    version.mkdir(parents=True)
    (version / SPEC_FILE).write_text(SPEC.to_json())
    write_repository(root, Deployment.load(root).replaced(LARGE, max_batch_size=16), {LARGE.name: SPEC})
    return root


def test_names() -> None:
    assert LARGE.name == "image_large"
    assert LARGE.models == ("clip_image_large", "clip_image_large_preprocess", "clip_image_large_encoder")
    assert (LARGE.encoder, LARGE.ensemble) == ("clip_image_large_encoder", "clip_image_large")
    assert TextFamily("large").models == (
        "clip_text_large",
        "clip_text_large_tokenize",
        "clip_text_large_encoder",
    )
    assert [family.name for family in families("large")] == ["image_large", "text_large"]
    assert family_of("text_large").models == TextFamily("large").models
    assert family_of("image").models == IMAGE.models
    assert [LARGE.served("decode"), LARGE.served("encode")] == [LARGE.models[1:2], LARGE.models[2:]]


@pytest.mark.parametrize(
    "text", ["", "Large", "a_b", "a-b", "../up", "encoder", "preprocess", "tokenize", "a" * 33]
)
def test_a_name_that_could_be_mistaken_is_an_error(text: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot name a set of models"):
        check_set_name(text)
    with pytest.raises(ConfigurationError, match="cannot name a set of models"):
        family_of(f"image_{text}")


def test_a_second_set_leaves_the_first_ones_files(both: Path, tmp_path: Path) -> None:
    alone = rendered_repository(tmp_path / "alone")
    for path in [path for model in IMAGE.models for path in (alone / model).rglob("*") if path.is_file()]:
        assert (both / path.relative_to(alone)).read_bytes() == path.read_bytes()
    sections = json.loads((both / DEPLOYMENT_FILE).read_text())
    assert list(sections) == ["version", "image", "image_large"]
    assert (sections["image"]["max_batch_size"], sections["image_large"]["max_batch_size"]) == (64, 16)


def test_a_second_set_has_its_names_in_every_config(both: Path) -> None:
    first = {path.relative_to(both) for model in IMAGE.models for path in (both / model).rglob("*.pb*")}
    second = {path.relative_to(both) for model in LARGE.models for path in (both / model).rglob("*.pb*")}
    assert {Path(str(path).replace("clip_image", "clip_image_large", 1)) for path in first} == second
    assert len(second) == 8
    for path in second:
        assert read_config(both / path).name == path.parts[0]
    steps = read_config(both / "clip_image_large" / "config.pbtxt").ensemble_scheduling.step
    assert tuple(step.model_name for step in steps) == LARGE.models[1:]
    assert (both / "clip_image_large" / "1" / ".gitkeep").exists()
    assert (both / "clip_image_large_preprocess" / "1" / "model.py").exists()
    assert outdated_configs(both) == []
    assert served_version(both, LARGE) == both / LARGE.encoder / "1"


def test_random_weights_of_one_set_are_not_said_of_the_other(tmp_path: Path) -> None:
    root = rendered_repository(tmp_path)
    specs = {
        "image": dataclasses.replace(default_spec(), random_weights=False),
        "image_large": dataclasses.replace(SPEC, random_weights=True),
    }
    texts = rendered(Deployment.load(root).replaced(LARGE), specs)
    assert len(texts) == 16
    for path, text in texts.items():
        assert ("RANDOM WEIGHTS" in text) == path.startswith("clip_image_large"), path


def test_settings_of_a_set(both: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert render(["--repository", str(both), "--name", "large", "--max-pixels", "9"]) == 0
    changed = capsys.readouterr().out.split()
    assert {path.partition("/")[0] for path in changed} == {DEPLOYMENT_FILE, *LARGE.models[1:]}
    assert render(["--repository", str(both), "--name", "", "--max-pixels", "9"]) == 0
    changed = capsys.readouterr().out.split()
    assert {path.partition("/")[0] for path in changed} == {DEPLOYMENT_FILE, *IMAGE.models[1:]}
    assert render(["--repository", str(both), "--name", "small", "--max-pixels", "9"]) == 2
    assert "has no section 'image_small'" in capsys.readouterr().err
    assert render(["--repository", str(both), "--name", "large", "--activate", "3"]) == 2
    assert f"clip-render --activate VERSION --repository {both} --name large" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        render(["--repository", str(both), "--name", "not_a_name"])
    assert "'not_a_name' cannot name a set of models. Allowed: " in capsys.readouterr().err


def test_each_set_is_fitted_to_the_machine(both: Path, tmp_path: Path) -> None:
    staged = tmp_path / "staged"
    stage(both, staged, Fit(InstanceLayout(3, 1, 2, 1)))
    for model, count in (("preprocess", 3), ("encoder", 2)):
        for name in ("clip_image", "clip_image_large"):
            config = "configs/cpu.pbtxt" if model == "encoder" else "config.pbtxt"
            assert read_config(staged / f"{name}_{model}" / config).instance_group[0].count == count
    refuse_other_backends(both, "cpu", ["python"])
    with pytest.raises(ConfigurationError, match="needs Triton's backend onnxruntime"):
        refuse_other_backends(both, "", ["python"])


def test_a_named_set_alone_is_a_repository(both: Path, tmp_path: Path) -> None:
    """As after the removal of the others."""
    remove(both, IMAGE)
    assert [family.name for family in Deployment.load(both).image_families] == ["image_large"]
    stage(both, tmp_path / "staged", Fit(InstanceLayout(1, 1, 1, 1)))
    names = {path.name for path in (tmp_path / "staged").iterdir()}
    assert names == {DEPLOYMENT_FILE, *LARGE.models}


def test_a_set_is_removed_with_its_section_and_folders(both: Path) -> None:
    remove(both, LARGE)
    assert list(load_specs(both, Deployment.load(both))) == ["image"]
    assert render(["--repository", str(both), "--check"]) == 0


def test_folders_that_were_removed_without_their_section_are_named(both: Path) -> None:
    remove_folders(both, LARGE)
    with pytest.raises(ConfigurationError) as caught:
        load_specs(both, Deployment.load(both))
    assert "no version of clip_image_large_encoder" in str(caught.value)
    assert "remove the section 'image_large' from its deployment.json" in str(caught.value)


def remove(repository: Path, family: ImageFamily) -> None:
    path = repository / DEPLOYMENT_FILE
    sections = json.loads(path.read_text())
    del sections[family.name]
    path.write_text(json.dumps(sections))
    remove_folders(repository, family)


def remove_folders(repository: Path, family: ImageFamily) -> None:
    for model in family.models:
        shutil.rmtree(repository / model)
