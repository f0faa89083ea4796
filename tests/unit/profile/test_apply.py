"""A setting goes into the rendered configs whole or not at all, and comes out again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from google.protobuf import text_format

from clip_profile.answer import apply as module
from clip_profile.answer.apply import apply, undo
from clip_profile.errors import ProfileError
from clip_profile.sweep.variant import make_variant
from clip_serving.errors import ConfigurationError
from clip_serving.repository.deployment import DeploymentSettings
from clip_serving.repository.render import render_all, write_repository
from clip_serving.repository.rendered import read_rendered
from clip_serving.repository.spec import ModelSpec
from clip_serving.repository.stage import read_config
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


class Killed(BaseException):
    """Ends the process there: nothing is cleaned up."""


def breaking_at(at: int, repository: Path, error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the write number `at` (from 1) into the repository fail, and only that."""
    put, count = module._put, 0

    def breaking(path: Path, text: str) -> None:
        nonlocal count
        count += repository in path.parents
        if count == at and repository in path.parents:
            raise error
        put(path, text)

    monkeypatch.setattr(module, "_put", breaking)


@contextmanager
def killed_at(at: int, repository: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The block ends with its write number `at`, and with nothing taken back."""
    with monkeypatch.context() as patch:
        breaking_at(at, repository, Killed(), patch)
        patch.setattr(module, "settle", lambda _: False)
        with pytest.raises(Killed):
            yield


_WRITES = range(1, 9)
"""The file that says what is under way, and seven configs."""


@pytest.mark.parametrize("applied_before", [False, True])
@pytest.mark.parametrize("fails_at", _WRITES)
def test_a_failure_half_way_leaves_the_repository_as_it_was(
    repository: Path, run: Path, fails_at: int, applied_before: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered = contents(repository)
    if applied_before:
        apply(setting(preprocess_instances=9, max_batch=8), repository, run)
    before = contents(repository)
    full = OSError(28, "No space left on device", "a.pbtxt")
    with monkeypatch.context() as patch:
        breaking_at(fails_at, repository, full, patch)
        with pytest.raises(ProfileError, match="No space left on device; nothing was changed"):
            apply(WANTED, repository, run)
    assert contents(repository) == before
    apply(WANTED, repository, run)
    undo(repository, run)
    assert contents(repository) == rendered


@pytest.mark.parametrize("applied_before", [False, True])
@pytest.mark.parametrize("write", _WRITES)
def test_a_change_that_was_killed_is_taken_back_by_any_runs_next_command(
    repository: Path,
    run: Path,
    tmp_path: Path,
    write: int,
    applied_before: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if applied_before:
        apply(setting(preprocess_instances=9, max_batch=8), repository, run)
    before = contents(repository)
    with killed_at(write, repository, monkeypatch):
        apply(WANTED, repository, run)
    assert module.is_under_way(repository) is (write > 1)
    other = tmp_path / "other"
    other.mkdir()
    apply(setting(preprocess_instances=3), repository, other)
    undo(repository, other)
    assert contents(repository) == before
    undo(repository, run)


def test_an_undo_that_was_killed_is_taken_back(
    repository: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(repository)
    apply(WANTED, repository, run)
    with killed_at(4, repository, monkeypatch):
        undo(repository, run)
    apply(setting(preprocess_instances=3), repository, run)
    undo(repository, run)
    assert contents(repository) == before


def test_what_was_edited_after_a_kill_is_not_lost(
    repository: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with killed_at(8, repository, monkeypatch):
        apply(WANTED, repository, run)
    path = repository / "clip_image_preprocess" / "config.pbtxt"
    path.write_text(path.read_text() + "# mine\n")
    before = contents(repository)
    with pytest.raises(ProfileError, match=r"clip_image_preprocess/config\.pbtxt was changed since"):
        apply(WANTED, repository, run)
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


@pytest.mark.parametrize("max_batch", [2, 12, 16, 64])
def test_a_variant_batches_as_what_is_applied_does(
    repository: Path, run: Path, tmp_path: Path, max_batch: int
) -> None:
    """Also where a smaller batch was applied before."""
    apply(setting(max_batch=2), repository, run)
    wanted = setting(max_batch=max_batch, queue_delay_us=500)
    make_variant(repository, tmp_path / "variant", wanted)
    apply(wanted, repository, run)
    for path in ("clip_image_preprocess/config.pbtxt", "clip_image_encoder/configs/cpu.pbtxt"):
        measured, applied = read_config(tmp_path / "variant" / path), read_config(repository / path)
        assert measured.dynamic_batching == applied.dynamic_batching
        assert measured.max_batch_size == applied.max_batch_size
    sizes = [size for size in (8, 16, 32, 64) if size <= max_batch]
    assert list(measured.dynamic_batching.preferred_batch_size) == sizes


def test_a_variant_of_an_unknown_format_is_refused(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no encoder configuration 'int7'"):
        make_variant(repository, tmp_path / "variant", setting(model_config_name="int7"))


def test_a_gpu_setting_leaves_the_cpu_encoders_precision(repository: Path, run: Path) -> None:
    apply(setting(model_config_name="tensorrt", encoder_precision="fp32"), repository, run)
    assert read_rendered(repository).deployment.encoder_precision == "bf16"
