"""A setting goes into deployment.json and the configs that follow from it, and comes out again."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format

from clip_profile.answer.apply import apply, undo
from clip_profile.errors import ProfileError
from clip_profile.sweep.variant import make_variant, require_servable
from clip_serving.errors import ConfigurationError
from clip_serving.repository.deployment import DEPLOYMENT_FILE, Deployment
from clip_serving.repository.families.image import IMAGE, ImageFamily
from clip_serving.repository.families.image.settings import ImageSettings
from clip_serving.repository.render import outdated_configs, render, render_repository, write_repository
from testing.repositories import default_spec, read_config, rendered_repository
from tests.unit.profile.records import setting

WANTED = setting(
    encoder_precision="int8",
    preprocess_instances=7,
    encoder_instances=3,
    encoder_threads=2,
    max_batch=16,
    queue_delay_us=500,
)
SPEC = dataclasses.replace(default_spec(), min_cosine={"int8": 0.995})
ODD: dict[str, Any] = {
    "preprocess_threads": 1,
    "encoder_precision": "bf16",
    "apply_exif_orientation": False,
    "quality": "fast",
    "max_queue_size": 99,
    "encoder_version": 1,
}


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return rendered_repository(tmp_path / "repository", SPEC, **ODD)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    path = tmp_path / "run"
    path.mkdir()
    return path


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def settings_of(repository: Path) -> ImageSettings:
    return Deployment.load(repository).settings(IMAGE)


def test_the_configs_are_those_that_the_settings_render(repository: Path, run: Path) -> None:
    names = contents(repository).keys()
    changed = apply(WANTED, repository, run)
    expected = render(Deployment.load(repository), {IMAGE.name: SPEC})
    assert {path: (repository / path).read_text() for path in expected} == expected
    settings = settings_of(repository)
    assert (settings.preprocess_instances, settings.encoder_instances) == (7, 3)
    assert settings.encoder_precision == "int8"
    assert (settings.encoder_threads, settings.max_batch_size, settings.max_queue_delay_us) == (2, 16, 500)
    assert (settings.quality, settings.apply_exif_orientation) == ("fast", False), "not measured, not touched"
    assert changed[0] == DEPLOYMENT_FILE
    assert "clip_image_preprocess/config.pbtxt" in changed
    assert contents(repository).keys() == names, "no temporary file stays"


def test_undo_brings_back_every_byte(repository: Path, run: Path) -> None:
    path = repository / DEPLOYMENT_FILE
    path.write_text(path.read_text().replace("  ", " "))  # laid out by hand
    before = contents(repository)
    apply(WANTED, repository, run)
    assert contents(repository) != before
    undo(repository, run)
    assert contents(repository) == before
    with pytest.raises(ProfileError, match="nothing was applied"):
        undo(repository, run)


def test_undo_brings_back_a_byte_order_mark(repository: Path, run: Path) -> None:
    path = repository / DEPLOYMENT_FILE
    path.write_text("\ufeff" + path.read_text(), encoding="utf-8")
    before = contents(repository)
    apply(WANTED, repository, run)
    undo(repository, run)
    assert contents(repository) == before


def test_undo_names_a_file_that_is_not_text(repository: Path, run: Path) -> None:
    apply(WANTED, repository, run)
    (repository / DEPLOYMENT_FILE).write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match=r"deployment\.json is not UTF-8"):
        undo(repository, run)


def test_undo_after_two_goes_back_to_before_the_first(repository: Path, run: Path) -> None:
    before = contents(repository)
    apply(WANTED, repository, run)
    apply(setting(preprocess_instances=9), repository, run)
    undo(repository, run)
    assert contents(repository) == before


def test_settings_that_are_already_applied_are_left_alone(repository: Path, run: Path) -> None:
    apply(WANTED, repository, run)
    assert apply(WANTED, repository, run) == []


def test_a_full_disk_changes_nothing(repository: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(repository)
    write = Path.write_text

    def full(path: Path, text: str, **options: Any) -> int:
        if "cpu.pbtxt" in path.name:
            raise OSError(28, "No space left on device", str(path))
        return write(path, text, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        with pytest.raises(ProfileError, match=r"cpu\.pbtxt.*No space left on device\. Nothing was changed"):
            apply(WANTED, repository, run)
    assert contents(repository) == before
    apply(WANTED, repository, run)
    undo(repository, run)
    assert contents(repository) == before


class Killed(BaseException):
    """Ends the process there."""


@pytest.mark.parametrize("renames", [1, 2, 5])
def test_a_change_that_was_killed_is_finished_by_a_render_or_undone(
    repository: Path, run: Path, renames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, rename, left = contents(repository), os.replace, [renames]

    def killing(source: Path, target: Path) -> None:
        if repository in target.parents:
            left[0] -= 1
        if left[0] < 0:
            raise Killed
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killing)
        with pytest.raises(Killed):
            apply(WANTED, repository, run)
    assert settings_of(repository).preprocess_instances == 7
    assert outdated_configs(repository)
    with pytest.raises(ProfileError, match="clip-render --repository"):
        apply(setting(preprocess_instances=9), repository, run)
    render_repository(repository)
    assert outdated_configs(repository) == []
    undo(repository, run)
    assert contents(repository) == before


def test_what_another_run_applied_meanwhile_is_what_undo_goes_back_to(
    repository: Path, run: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    apply(WANTED, repository, run)
    apply(setting(preprocess_instances=9), repository, other)
    between = contents(repository)
    apply(WANTED, repository, run)
    undo(repository, run)
    assert contents(repository) == between


@pytest.mark.parametrize(
    ("path", "cut"),
    [
        ("clip_image_encoder/configs/cpu.pbtxt", "instance_group"),
        ("clip_image_encoder/configs/cpu.pbtxt", "parameters"),
        ("clip_image_preprocess/config.pbtxt", "instance_group"),
    ],
)
def test_a_config_without_a_field_that_is_rendered_was_edited_by_hand(
    repository: Path, run: Path, path: str, cut: str
) -> None:
    config = read_config(repository / path)
    config.ClearField(cut)
    (repository / path).write_text(text_format.MessageToString(config))
    before = contents(repository)
    with pytest.raises(ProfileError, match="edited by hand"):
        apply(WANTED, repository, run)
    assert contents(repository) == before


def test_a_config_edited_by_hand_is_not_lost(repository: Path, run: Path) -> None:
    path = repository / "clip_image_preprocess" / "config.pbtxt"
    path.write_text(path.read_text().replace("count: 4", "count: 5"))
    before = contents(repository)
    with pytest.raises(ProfileError, match=r"clip_image_preprocess/config.pbtxt .* edited by hand"):
        apply(WANTED, repository, run)
    assert contents(repository) == before


def test_undo_does_not_write_over_later_changes(repository: Path, run: Path) -> None:
    apply(WANTED, repository, run)
    render_repository(repository, lambda now: now.replaced(IMAGE, encoder_instances=8))
    before = contents(repository)
    with pytest.raises(ProfileError, match=rf"was changed after --apply.*{run}/applied.json"):
        undo(repository, run)
    assert contents(repository) == before


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b"\xff", b'{"repository": "r", "before": 1, "after": "a"}']
)
def test_a_damaged_record_is_named(repository: Path, run: Path, content: bytes) -> None:
    apply(WANTED, repository, run)
    (run / "applied.json").write_bytes(content)
    before = contents(repository)
    with pytest.raises(ProfileError, match=rf"{run}/applied.json is damaged"):
        undo(repository, run)
    assert contents(repository) == before


def test_another_repository_is_not_undone(repository: Path, run: Path, tmp_path: Path) -> None:
    apply(WANTED, repository, run)
    with pytest.raises(ProfileError, match="was applied to"):
        undo(tmp_path / "other", run)


def test_a_folder_that_is_not_a_repository_is_named(tmp_path: Path, run: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"deployment\.json is missing"):
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


def test_models_with_names_are_not_measured_and_stay(repository: Path, run: Path, tmp_path: Path) -> None:
    large = ImageFamily("large")
    (repository / large.encoder).mkdir()
    (repository / large.encoder / "1").symlink_to(repository / "clip_image_encoder" / "1")
    write_repository(repository, Deployment.load(repository).replaced(large), {large.name: default_spec()})
    make_variant(repository, tmp_path / "variant", WANTED)
    assert not list((tmp_path / "variant").glob("*large*"))
    before = Deployment.load(repository).settings(large)
    assert apply(WANTED, repository, run)
    assert Deployment.load(repository).settings(large) == before


@pytest.mark.parametrize("max_batch", [2, 12, 16, 64])
def test_a_variant_is_what_is_applied(repository: Path, run: Path, tmp_path: Path, max_batch: int) -> None:
    """Also where a smaller batch was applied before."""
    apply(setting(max_batch=2), repository, run)
    wanted = setting(max_batch=max_batch, queue_delay_us=500)
    make_variant(repository, tmp_path / "variant", wanted)
    apply(wanted, repository, run)
    for path in ("clip_image_preprocess/config.pbtxt", "clip_image_encoder/configs/cpu.pbtxt"):
        assert read_config(tmp_path / "variant" / path) == read_config(repository / path)
    sizes = [size for size in (8, 16, 32, 64) if size <= max_batch]
    assert list(read_config(repository / path).dynamic_batching.preferred_batch_size) == sizes


def test_an_unknown_format_is_refused(repository: Path) -> None:
    with pytest.raises(ConfigurationError, match="no encoder configuration 'int7'"):
        require_servable(repository, "int7")


def test_a_gpu_setting_leaves_the_cpu_encoders_precision(repository: Path, run: Path) -> None:
    apply(setting(model_config_name="tensorrt", encoder_precision="fp32"), repository, run)
    assert settings_of(repository).encoder_precision == "bf16"
