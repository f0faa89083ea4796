"""A second model family registers, renders and is staged beside the image family, which does not change."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from tritonclient.grpc import model_config_pb2 as pb

from clip_serving.repository.deployment import DEPLOYMENT_FILE, Deployment
from clip_serving.repository.families import FAMILIES
from clip_serving.repository.families.base import MODEL_PY, ModelFamily
from clip_serving.repository.families.configs import model_config, version_policy
from clip_serving.repository.families.image import IMAGE
from clip_serving.repository.flags import add_flags, given
from clip_serving.repository.render import outdated_configs, render_repository, write_repository
from clip_serving.repository.settings import FamilySettings, WholeNumber, setting
from clip_serving.repository.spec import SPEC_FILE, TowerSpec
from clip_serving.repository.stage import Fit, InstanceLayout, stage
from clip_serving.repository.versions import served_version
from testing.repositories import default_spec, read_config, rendered_repository


@dataclass(frozen=True, kw_only=True)
class WordSpec(TowerSpec):
    vocabulary: int


@dataclass(frozen=True)
class WordSettings(FamilySettings):
    max_batch_size: int = setting(32, "max_batch_size", "largest batch", WholeNumber())
    encoder_instances: int = setting(2, "encoder.instances", "instances", WholeNumber())
    encoder_version: int | None = setting(
        None, "encoder.version", "", WholeNumber(optional=True), flag="activate"
    )


class WordFamily(ModelFamily[WordSpec, WordSettings]):
    name = "words"
    flag_prefix = "words-"
    models = ("clip_words", "clip_words_encoder")
    encoder = "clip_words_encoder"
    spec = WordSpec
    settings = WordSettings

    def unnamed_configs(self, spec: WordSpec, settings: WordSettings) -> dict[str, pb.ModelConfig]:
        batch = {"max_batch_size": settings.max_batch_size}
        encoder = {
            "name": self.encoder,
            "backend": "python",
            "version_policy": version_policy(settings.encoder_version),
            "instance_group": [{"kind": "KIND_CPU", "count": settings.encoder_instances}],
            "parameters": {"vocabulary": {"string_value": str(spec.vocabulary)}},
            **batch,
        }
        return {
            "clip_words/config.pbtxt": model_config({"name": "clip_words", "platform": "ensemble", **batch}),
            "clip_words_encoder/config.pbtxt": model_config(encoder),
        }

    def unnamed_static_files(self) -> dict[str, str]:
        return {"clip_words/1/.gitkeep": "", "clip_words_encoder/1/model.py": MODEL_PY.format("words")}


WORDS = WordFamily()
SPEC = WordSpec(model="Words", pretrained="none", embedding_dim=8, vocabulary=49408)


@pytest.fixture
def both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with both families, whose words were exported into an image repository."""
    monkeypatch.setitem(FAMILIES, WORDS.name, WORDS)
    root = rendered_repository(tmp_path / "repository", max_batch_size=16)
    version = root / WORDS.encoder / "3"
    version.mkdir(parents=True)
    (version / SPEC_FILE).write_text(SPEC.to_json())
    write_repository(root, Deployment.load(root).replaced(WORDS, encoder_instances=5), {WORDS.name: SPEC})
    return root


def test_each_family_has_its_section_its_spec_and_its_configs(both: Path) -> None:
    sections = json.loads((both / DEPLOYMENT_FILE).read_text())
    assert list(sections) == ["version", "image", "words"]
    assert (sections["image"]["max_batch_size"], sections["words"]["max_batch_size"]) == (16, 32)
    words = read_config(both / WORDS.encoder / "config.pbtxt")
    assert words.instance_group[0].count == 5
    assert words.parameters["vocabulary"].string_value == "49408"
    assert read_config(both / "clip_image" / "config.pbtxt").max_batch_size == 16
    assert outdated_configs(both) == []
    assert served_version(both).name == "1"
    assert served_version(both, WORDS).name == "3"


def test_a_change_of_one_family_leaves_the_others_files(both: Path) -> None:
    _, changed = render_repository(both, lambda now: now.replaced(WORDS, max_batch_size=9))
    assert changed == [DEPLOYMENT_FILE, "clip_words/config.pbtxt", "clip_words_encoder/config.pbtxt"]
    _, changed = render_repository(both, lambda now: now.replaced(IMAGE, max_pixels=9))
    assert changed[:2] == [DEPLOYMENT_FILE, "clip_image_preprocess/config.pbtxt"]
    assert {Path(path).parts[0] for path in changed[2:]} == {"clip_image_encoder"}, "it states the pixels"


def test_both_are_staged_for_the_embedded_server(both: Path, tmp_path: Path) -> None:
    stage(both, tmp_path / "staged", Fit(InstanceLayout(3, 1, 1, 1)))
    assert read_config(tmp_path / "staged" / WORDS.encoder / "config.pbtxt").instance_group[0].count == 5
    preprocess = read_config(tmp_path / "staged" / "clip_image_preprocess" / "config.pbtxt")
    assert preprocess.instance_group[0].count == 3
    assert (tmp_path / "staged" / WORDS.encoder / "3").resolve() == (both / WORDS.encoder / "3").resolve()


def test_flags_of_two_families_do_not_collide() -> None:
    parser = argparse.ArgumentParser()
    for family in (IMAGE, WORDS):
        add_flags(parser, family)
    options = parser.parse_args(
        ["--max-batch-size", "4", "--words-max-batch-size", "5", "--words-activate", "3"]
    )
    assert given(options, IMAGE) == {"max_batch_size": 4}
    assert given(options, WORDS) == {"max_batch_size": 5, "encoder_version": 3}


def test_an_image_spec_has_what_every_tower_has() -> None:
    assert isinstance(default_spec(), TowerSpec)
    assert WordSpec.from_json(SPEC.to_json()) == SPEC
