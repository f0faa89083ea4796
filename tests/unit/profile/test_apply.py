"""A setting goes into the rendered configs whole or not at all, and comes out again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clip_serving.errors import ConfigurationError, ProfileError
from clip_serving.profile import apply as module
from clip_serving.profile.apply import apply, undo
from clip_serving.profile.variant import make_variant
from clip_serving.render import render_all, write_repository
from clip_serving.rendered import read_rendered
from clip_serving.settings import DeploymentSettings
from clip_serving.spec import ModelSpec
from clip_serving.staging import read_config
from tests.unit.profile.records import setting
from tools.render_default import SPEC

WANTED = setting(
    encoder_precision="int8",
    preprocess_instances=7,
    encoder_instances=3,
    encoder_threads=2,
    max_batch=16,
    queue_delay_us=500,
)
ODD = DeploymentSettings(
    preprocess_threads=1,
    encoder_precision="bf16",
    apply_exif_orientation=False,
    quality="fast",
    max_queue_size=99,
)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "repository"
    spec = ModelSpec.load(SPEC)
    version = root / "clip_image_encoder" / "1"
    version.mkdir(parents=True)
    (version / "spec.json").write_text(spec.to_json())
    write_repository(root, spec, ODD, encoder_version=1)
    return root


@pytest.fixture
def run(tmp_path: Path) -> Path:
    path = tmp_path / "run"
    path.mkdir()
    return path


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_what_was_rendered_is_read_back(repository: Path) -> None:
    rendered = read_rendered(repository)
    assert (rendered.deployment, rendered.encoder_version) == (ODD, 1)


def test_the_configs_are_those_that_the_spec_renders(repository: Path, run: Path) -> None:
    names = contents(repository).keys()
    changed = apply(WANTED, repository, run)
    rendered = read_rendered(repository)
    expected = render_all(rendered.spec, rendered.deployment, 1)
    assert {path: (repository / path).read_text() for path in expected} == expected
    deployment = rendered.deployment
    assert (deployment.preprocess_instances, deployment.encoder_instances) == (7, 3)
    assert deployment.encoder_precision == "int8"
    assert (deployment.encoder_threads, deployment.max_batch_size, deployment.max_queue_delay_us) == (
        2,
        16,
        500,
    )
    assert (deployment.quality, deployment.apply_exif_orientation) == ("fast", False), (
        "not measured, not touched"
    )
    assert "clip_image_preprocess/config.pbtxt" in changed
    assert contents(repository).keys() == names, "no temporary file stays"


def test_undo_brings_back_every_byte(repository: Path, run: Path) -> None:
    before = contents(repository)
    apply(WANTED, repository, run)
    assert contents(repository) != before
    undo(repository, run)
    assert contents(repository) == before
    with pytest.raises(ProfileError, match="nothing was applied"):
        undo(repository, run)


def test_undo_after_two_goes_back_to_before_the_first(repository: Path, run: Path) -> None:
    before = contents(repository)
    apply(WANTED, repository, run)
    apply(setting(preprocess_instances=9), repository, run)
    undo(repository, run)
    assert contents(repository) == before


def test_what_is_so_already_is_left_alone(repository: Path, run: Path) -> None:
    apply(WANTED, repository, run)
    assert apply(WANTED, repository, run) == []


@pytest.mark.parametrize("fails_at", [1, 2, 4])
def test_a_failure_half_way_leaves_the_repository_as_it_was(
    repository: Path, run: Path, fails_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, put, count = contents(repository), module._put, 0

    def failing(path: Path, text: str) -> None:
        nonlocal count
        if repository in path.parents and count < fails_at:
            count += 1
            if count == fails_at:
                raise OSError(28, "No space left on device", str(path))
        put(path, text)

    monkeypatch.setattr(module, "_put", failing)
    with pytest.raises(ProfileError, match="No space left on device; nothing was changed"):
        apply(WANTED, repository, run)
    assert contents(repository) == before


def test_a_change_that_was_killed_is_taken_back_by_the_next_command(
    repository: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, put = contents(repository), module._put

    class Killed(BaseException):
        pass

    def dying(path: Path, text: str) -> None:
        put(path, text)
        if repository in path.parents:
            raise Killed

    # A killed process undoes nothing.
    monkeypatch.setattr(module, "undo", lambda *_: None)
    monkeypatch.setattr(module, "_put", dying)
    with pytest.raises(Killed):
        apply(WANTED, repository, run)
    assert contents(repository) != before
    monkeypatch.undo()
    module.settle(repository, run)
    assert contents(repository) == before


def test_a_config_edited_by_hand_is_not_lost(repository: Path, run: Path) -> None:
    path = repository / "clip_image_preprocess" / "config.pbtxt"
    path.write_text(path.read_text().replace("count: 4", "count: 5"))
    path.write_text(path.read_text() + "\n# mine\n")
    before = contents(repository)
    with pytest.raises(ProfileError, match=r"clip_image_preprocess/config.pbtxt .* edited by hand"):
        apply(WANTED, repository, run)
    assert contents(repository) == before


def test_undo_does_not_write_over_later_changes(repository: Path, run: Path) -> None:
    apply(WANTED, repository, run)
    write_repository(repository, ModelSpec.load(SPEC), DeploymentSettings(encoder_instances=8))
    before = contents(repository)
    with pytest.raises(ProfileError, match="was changed since"):
        undo(repository, run)
    assert contents(repository) == before


def test_another_repository_is_not_undone(repository: Path, run: Path, tmp_path: Path) -> None:
    apply(WANTED, repository, run)
    with pytest.raises(ProfileError, match="was applied to"):
        undo(tmp_path / "other", run)


def test_what_is_no_repository_is_named(tmp_path: Path, run: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"config\.pbtxt"):
        apply(WANTED, tmp_path, run)
    assert list(tmp_path.iterdir()) == [run]


def test_a_variant_changes_the_batching_and_nothing_of_the_source(repository: Path, tmp_path: Path) -> None:
    before = contents(repository)
    make_variant(repository, tmp_path / "variant", WANTED)
    assert contents(repository) == before
    encoder = read_config(tmp_path / "variant" / "clip_image_encoder" / "configs" / "cpu.pbtxt")
    assert (encoder.max_batch_size, encoder.dynamic_batching.max_queue_delay_microseconds) == (16, 500)
    assert list(encoder.dynamic_batching.preferred_batch_size) == [8, 16]
    gpu = read_config(tmp_path / "variant" / "clip_image_encoder" / "config.pbtxt")
    assert max(warmup.batch_size for warmup in gpu.model_warmup) == 16
    ensemble = read_config(tmp_path / "variant" / "clip_image" / "config.pbtxt")
    assert ensemble.max_batch_size == 16
    assert len(ensemble.ensemble_scheduling.step) == 2
    assert (tmp_path / "variant" / "clip_image_encoder" / "1" / "spec.json").exists()


def test_a_variant_of_an_unknown_format_is_refused(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no encoder configuration 'int7'"):
        make_variant(repository, tmp_path / "variant", setting(model_config_name="int7"))


def test_the_journal_names_the_repository(repository: Path, run: Path) -> None:
    apply(WANTED, repository, run)
    journal = json.loads((run / "applied.json").read_text())
    assert journal["done"] is True
    assert journal["repository"] == str(repository.resolve())


def test_a_gpu_setting_leaves_the_cpu_encoders_precision(repository: Path, run: Path) -> None:
    apply(setting(model_config_name="tensorrt", encoder_precision="fp32"), repository, run)
    assert read_rendered(repository).deployment.encoder_precision == "bf16"
