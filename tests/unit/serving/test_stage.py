"""The private copy: settings fitted, versions linked, the user's repository untouched."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from clip_serving.defaults import EncoderPrecision, Tier
from clip_serving.errors import ConfigurationError
from clip_serving.repository.deployment import Deployment
from clip_serving.repository.families.image import IMAGE
from clip_serving.repository.render import outdated_configs, render_repository
from clip_serving.repository.stage import Fit, InstanceLayout, refuse_other_backends, stage
from clip_serving.repository.versions import served_version
from testing.repositories import read_config, rendered_repository

_LAYOUT = InstanceLayout(preprocess_instances=3, preprocess_threads=2, encoder_instances=5, encoder_threads=4)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return rendered_repository(tmp_path / "source")


def staged(source: Path, folder: Path) -> Path:
    target = folder / "staged"
    target.mkdir()
    stage(source, target, Fit(_LAYOUT))
    return target


def test_counts_and_threads_are_fitted(source: Path, tmp_path: Path) -> None:
    target = staged(source, tmp_path)
    preprocess = read_config(target / "clip_image_preprocess" / "config.pbtxt")
    encoder = read_config(target / "clip_image_encoder" / "configs" / "cpu.pbtxt")
    assert (preprocess.instance_group[0].count, preprocess.parameters["threads"].string_value) == (3, "2")
    assert (encoder.instance_group[0].count, encoder.parameters["threads"].string_value) == (5, "4")


def test_instances_are_fitted_in_every_format(source: Path, tmp_path: Path) -> None:
    encoder = staged(source, tmp_path) / "clip_image_encoder"
    for path in (encoder / "config.pbtxt", *(encoder / "configs").iterdir()):
        config = read_config(path)
        assert config.instance_group[0].count == 5, path
        assert ("threads" in config.parameters) == (config.backend == "python"), path


@pytest.mark.parametrize(
    ("precision", "served", "reference"), [(None, "auto", "0.999"), ("int8", "int8", "0.99")]
)
def test_a_precision_brings_its_own_bound_on_the_reference(
    source: Path, tmp_path: Path, precision: EncoderPrecision | None, served: str, reference: str
) -> None:
    target = tmp_path / "staged"
    target.mkdir()
    stage(source, target, Fit(_LAYOUT, encoder_precision=precision))
    encoder = read_config(target / "clip_image_encoder" / "configs" / "cpu.pbtxt")
    ensemble = read_config(target / "clip_image" / "config.pbtxt")
    assert encoder.parameters["precision"].string_value == served
    assert ensemble.parameters["reference_min_cosine"].string_value == reference


def test_the_ensemble_says_what_its_stages_are_changed_to(source: Path, tmp_path: Path) -> None:
    def said(root: Path) -> dict[str, str]:
        parameters = read_config(root / "clip_image" / "config.pbtxt").parameters
        return {name: parameters[name].string_value for name in ("quality", "encoder_precision")}

    assert said(source) == said(staged(source, tmp_path)) == {"quality": "high", "encoder_precision": "auto"}
    target = tmp_path / "changed"
    target.mkdir()
    stage(source, target, Fit(_LAYOUT, quality="exact", encoder_precision="fp32"))
    assert said(target) == {"quality": "exact", "encoder_precision": "fp32"}


def test_settings_that_the_machine_does_not_decide_are_the_repositorys(source: Path, tmp_path: Path) -> None:
    render_repository(source, lambda now: now.replaced(IMAGE, max_batch_size=12, max_queue_size=5))
    target = staged(source, tmp_path)
    assert read_config(target / "clip_image_preprocess" / "config.pbtxt").max_batch_size == 12
    settings = Deployment.load(target).settings(IMAGE)
    assert (settings.max_batch_size, settings.max_queue_size, settings.preprocess_instances) == (12, 5, 3)
    assert outdated_configs(target) == []


@pytest.mark.parametrize(
    ("tier", "models"), [("decode", ["clip_image_preprocess"]), ("encode", ["clip_image_encoder"])]
)
def test_a_tier_has_only_its_models(source: Path, tmp_path: Path, tier: Tier, models: list[str]) -> None:
    target = tmp_path / "tier"
    target.mkdir()
    stage(source, target, Fit(_LAYOUT), tier)
    assert sorted(entry.name for entry in target.iterdir() if entry.is_dir()) == models
    whole = staged(source, tmp_path)
    for model in models:
        assert read_config(target / model / "config.pbtxt") == read_config(whole / model / "config.pbtxt")


def test_the_decode_tier_needs_no_backend_of_the_encoder(source: Path) -> None:
    refuse_other_backends(source, "", ["python"], "decode")
    with pytest.raises(ConfigurationError, match="onnxruntime"):
        refuse_other_backends(source, "", ["python"], "encode")


def test_exported_files_are_linked(source: Path, tmp_path: Path) -> None:
    (source / "clip_image_encoder" / "warmup").mkdir()
    target = staged(source, tmp_path)
    for name in (
        "clip_image/1",
        "clip_image_preprocess/1",
        "clip_image_encoder/1",
        "clip_image_encoder/warmup",
    ):
        assert (target / name).resolve() == (source / name).resolve()


def test_the_source_stays_as_it_was(source: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in source.rglob("*") if path.is_file()}
    staged(source, tmp_path)
    assert {path: path.read_bytes() for path in source.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("lacking", ["clip_image", "clip_image_preprocess", "clip_image_encoder"])
def test_a_missing_model_is_named_with_a_remedy(source: Path, tmp_path: Path, lacking: str) -> None:
    (source / lacking / "config.pbtxt").unlink()
    with pytest.raises(ConfigurationError, match=rf"{lacking}/config.pbtxt is missing.*clip-render"):
        staged(source, tmp_path)


def test_an_encoder_that_was_never_exported_is_named(source: Path, tmp_path: Path) -> None:
    shutil.rmtree(source / "clip_image_encoder" / "1")
    with pytest.raises(ConfigurationError, match="no exported encoder"):
        staged(source, tmp_path)


def test_the_pinned_version_is_the_served_one(source: Path) -> None:
    (source / "clip_image_encoder" / "2").mkdir()
    assert served_version(source).name == "2"
    render_repository(source, lambda now: now.replaced(IMAGE, encoder_version=1))
    assert served_version(source).name == "1"
    shutil.rmtree(source / "clip_image_encoder" / "1")
    with pytest.raises(
        ConfigurationError, match=r"version 1 of clip_image_encoder, which is missing.*--activate"
    ):
        served_version(source)


def test_a_folder_that_is_not_a_repository_is_named_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"not a clip-triton model repository.*clip-export"):
        staged(tmp_path / "nothing", tmp_path)


def test_a_misspelled_setting_names_the_file(source: Path, tmp_path: Path) -> None:
    path = source / "deployment.json"
    path.write_text(path.read_text().replace("max_batch_size", "max_bach_size"))
    with pytest.raises(
        ConfigurationError, match=rf"{path}: image.max_bach_size is not a setting.*max_batch_size"
    ):
        staged(source, tmp_path)


def test_a_format_is_refused_that_the_encoder_or_the_server_lacks(source: Path) -> None:
    refuse_other_backends(source, "cpu", ["python"])
    with pytest.raises(
        ConfigurationError, match="no encoder configuration 'int7'; it has cpu, tensorrt, torch"
    ):
        refuse_other_backends(source, "int7", ["python"])
    with pytest.raises(ConfigurationError, match=r"torchscript.pbtxt needs Triton's backend pytorch"):
        refuse_other_backends(source, "torchscript", ["python"])


@pytest.mark.parametrize("cores", [1, 2, 3, 4, 8, 64])
def test_a_layout_never_takes_more_encoder_threads_than_cores(cores: int) -> None:
    layout = InstanceLayout.for_cores(cores)
    assert layout.encoder_instances * layout.encoder_threads <= cores
    assert layout.preprocess_instances >= 1


def test_an_empty_layout_is_rejected() -> None:
    with pytest.raises(ConfigurationError):
        InstanceLayout(0, 1, 1, 1)


def test_the_tenth_export_is_newer_than_the_ninth(source: Path) -> None:
    for number in ("9", "10"):
        (source / "clip_image_encoder" / number).mkdir()
    assert served_version(source).name == "10"
