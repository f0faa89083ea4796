"""The private copy: counts fitted, everything else linked, the user's repository untouched."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from clip_serving.defaults import EncoderPrecision
from clip_serving.errors import ConfigurationError
from clip_serving.repository.render import write_repository
from clip_serving.repository.spec import ModelSpec
from clip_serving.repository.stage import Fit, InstanceLayout, read_config, served_version, stage
from tools.render_default import SPEC

_LAYOUT = InstanceLayout(preprocess_instances=3, preprocess_threads=2, encoder_instances=5, encoder_threads=4)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "source"
    write_repository(root, ModelSpec.load(SPEC))
    (root / "clip_image_encoder" / "1").mkdir()
    return root


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


def test_a_hand_made_edit_is_kept(source: Path, tmp_path: Path) -> None:
    path = source / "clip_image_preprocess" / "config.pbtxt"
    path.write_text(path.read_text().replace("max_batch_size: 64", "max_batch_size: 12"))
    target = staged(source, tmp_path)
    assert read_config(target / "clip_image_preprocess" / "config.pbtxt").max_batch_size == 12


def test_the_source_stays_as_it_was(source: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in source.rglob("*") if path.is_file()}
    staged(source, tmp_path)
    assert {path: path.read_bytes() for path in source.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("lacking", ["clip_image", "clip_image_preprocess", "clip_image_encoder"])
def test_a_missing_model_is_named_with_the_way_out(source: Path, tmp_path: Path, lacking: str) -> None:
    (source / lacking / "config.pbtxt").unlink()
    with pytest.raises(ConfigurationError, match=rf"{lacking}/config.pbtxt is missing.*clip-export"):
        staged(source, tmp_path)


def test_an_encoder_that_was_never_exported_is_named(source: Path, tmp_path: Path) -> None:
    (source / "clip_image_encoder" / "1").rmdir()
    with pytest.raises(ConfigurationError, match="no exported encoder"):
        staged(source, tmp_path)


def test_the_pinned_version_is_the_served_one(source: Path) -> None:
    (source / "clip_image_encoder" / "2").mkdir()
    assert served_version(source).name == "2"
    write_repository(source, ModelSpec.load(SPEC), encoder_version=1)
    assert served_version(source).name == "1"
    (source / "clip_image_encoder" / "1").rmdir()
    with pytest.raises(ConfigurationError, match=r"version 1 of the encoder, which is missing.*--activate"):
        served_version(source)


def test_a_misspelt_field_names_the_file(source: Path, tmp_path: Path) -> None:
    path = source / "clip_image" / "config.pbtxt"
    path.write_text(path.read_text() + "max_bach_size: 4\n")
    with pytest.raises(ConfigurationError, match=r"clip_image/config.pbtxt.*max_bach_size"):
        staged(source, tmp_path)


@pytest.mark.parametrize("cores", [1, 2, 3, 4, 8, 64])
def test_a_layout_never_takes_more_encoder_threads_than_cores(cores: int) -> None:
    layout = InstanceLayout.for_cores(cores)
    assert layout.encoder_instances * layout.encoder_threads <= cores
    assert layout.preprocess_instances >= 1


def test_a_layout_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigurationError):
        InstanceLayout(0, 1, 1, 1)


def test_clip_serve_warns_against_instances_past_the_cores(tmp_path: Path) -> None:
    arguments = ["--repository", str(tmp_path), "--preprocess-instances", "1000"]
    done = subprocess.run(
        [sys.executable, "-m", "clip_serving.cli", *arguments], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "warning: 1000 preprocess instances x 1 threads are more than the" in done.stderr
    assert "encoder instances" not in done.stderr


def test_the_tenth_export_is_newer_than_the_ninth(source: Path) -> None:
    for number in ("9", "10"):
        (source / "clip_image_encoder" / number).mkdir()
    assert served_version(source).name == "10"
