"""The committed configs are the default model's, and what is rendered is what Triton understands."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from clip_preprocess.errors import SettingsError
from clip_preprocess.settings import DecodeLimits, PreprocessSettings
from clip_serving.errors import ConfigurationError
from clip_serving.repository.deployment import DeploymentSettings, preprocess_settings
from clip_serving.repository.render import render_all, write_repository
from clip_serving.repository.spec import ModelSpec
from tools.render_default import REPOSITORY, SPEC


@pytest.fixture
def spec() -> ModelSpec:
    return ModelSpec.load(SPEC)


def parsed(text: str) -> pb.ModelConfig:
    return text_format.Parse(text, pb.ModelConfig())


def test_committed_configs_are_the_default_models(spec: ModelSpec, tmp_path: Path) -> None:
    write_repository(tmp_path, spec)
    rendered = {
        path.relative_to(tmp_path): path.read_text() for path in tmp_path.rglob("*") if path.is_file()
    }
    committed = {path: (REPOSITORY / path).read_text() for path in rendered}
    assert committed == rendered, "run `make configs` and commit the result"


def test_every_variant_of_the_encoder_has_the_same_inputs(spec: ModelSpec) -> None:
    encoders = [parsed(text) for path, text in render_all(spec).items() if "encoder" in path]
    assert len(encoders) == 4
    assert len({str(list(config.input)) for config in encoders}) == 1


def test_production_encoder_is_fp16_onnx_on_the_gpu(spec: ModelSpec) -> None:
    config = parsed(render_all(spec)["clip_image_encoder/config.pbtxt"])
    assert config.backend == "onnxruntime"
    assert config.default_model_filename == "model.fp16.onnx"
    assert config.instance_group[0].kind == pb.ModelInstanceGroup.KIND_GPU
    assert config.max_batch_size == 64
    assert list(config.dynamic_batching.preferred_batch_size) == [8, 16, 32, 64]
    assert config.dynamic_batching.max_queue_delay_microseconds > 0
    assert {warmup.batch_size for warmup in config.model_warmup} == {1, 8, 16, 32, 64}


def test_tensorrt_variant_has_profiles_and_an_engine_cache(spec: ModelSpec) -> None:
    config = parsed(render_all(spec)["clip_image_encoder/configs/tensorrt.pbtxt"])
    (accelerator,) = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert accelerator.name == "tensorrt"
    assert accelerator.parameters["trt_profile_min_shapes"] == "pixels:1x224x224x3,valid:1x1"
    assert accelerator.parameters["trt_profile_max_shapes"] == "pixels:64x224x224x3,valid:64x1"
    assert accelerator.parameters["trt_engine_cache_enable"] == "true"


def test_torchscript_output_reaches_the_ensemble(spec: ModelSpec) -> None:
    texts = render_all(spec)
    encoder = parsed(texts["clip_image_encoder/configs/torchscript.pbtxt"])
    ensemble = parsed(texts["clip_image/configs/torchscript.pbtxt"])
    assert ensemble.ensemble_scheduling.step[1].output_map[encoder.output[0].name] == "embedding"


def test_instances_scale_apart(spec: ModelSpec) -> None:
    texts = render_all(spec, DeploymentSettings(preprocess_instances=7, encoder_instances=2))
    assert parsed(texts["clip_image_preprocess/config.pbtxt"]).instance_group[0].count == 7
    assert parsed(texts["clip_image_encoder/config.pbtxt"]).instance_group[0].count == 2


def test_the_precision_is_the_cpu_encoders_and_bounds_the_reference(spec: ModelSpec) -> None:
    def rendered(deployment: DeploymentSettings) -> tuple[str, float]:
        texts = render_all(spec, deployment)
        encoder = parsed(texts["clip_image_encoder/configs/cpu.pbtxt"])
        ensemble = parsed(texts["clip_image/config.pbtxt"])
        least = float(ensemble.parameters["reference_min_cosine"].string_value)
        return encoder.parameters["precision"].string_value, least

    assert rendered(DeploymentSettings()) == ("auto", 0.999)
    assert rendered(DeploymentSettings(encoder_precision="bf16")) == ("bf16", 0.999)
    assert rendered(DeploymentSettings(encoder_precision="int8")) == ("int8", 0.99)


def test_the_ensemble_tells_what_its_stages_do(spec: ModelSpec) -> None:
    deployment = DeploymentSettings(
        quality="exact", apply_exif_orientation=False, encoder_precision="bf16", limits=DecodeLimits(123)
    )
    for path in ("clip_image/config.pbtxt", "clip_image/configs/torchscript.pbtxt"):
        told = parsed(render_all(spec, deployment)[path]).parameters
        assert (told["quality"].string_value, told["encoder_precision"].string_value) == ("exact", "bf16")
        assert (told["max_bytes"].string_value, told["apply_exif_orientation"].string_value) == (
            "123",
            "false",
        )


def test_preferred_sizes_never_exceed_the_largest_batch(spec: ModelSpec) -> None:
    config = parsed(
        render_all(spec, DeploymentSettings(max_batch_size=16))["clip_image_encoder/config.pbtxt"]
    )
    assert list(config.dynamic_batching.preferred_batch_size) == [8, 16]
    assert max(warmup.batch_size for warmup in config.model_warmup) == 16


def test_rollback_pins_a_version(spec: ModelSpec) -> None:
    config = parsed(render_all(spec, encoder_version=3)["clip_image_encoder/config.pbtxt"])
    assert list(config.version_policy.specific.versions) == [3]


def test_the_encoders_config_is_the_last_to_change(spec: ModelSpec) -> None:
    assert list(render_all(spec))[-1] == "clip_image_encoder/config.pbtxt"


def test_a_config_that_cannot_be_written_changes_none(spec: ModelSpec, tmp_path: Path) -> None:
    write_repository(tmp_path, spec)
    variants = tmp_path / "clip_image_encoder" / "configs"
    shutil.rmtree(variants)
    variants.write_text("in the way")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(FileExistsError):
        write_repository(tmp_path, spec, DeploymentSettings(preprocess_instances=9))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_random_weights_are_said_in_every_config(spec: ModelSpec) -> None:
    import dataclasses

    texts = render_all(dataclasses.replace(spec, random_weights=True))
    assert all("RANDOM WEIGHTS" in text for text in texts.values())
    ensemble = parsed(texts["clip_image/config.pbtxt"])
    assert ensemble.parameters["random_weights"].string_value == "true"


def test_preprocess_settings_survive_the_config(spec: ModelSpec) -> None:
    deployment = DeploymentSettings(apply_exif_orientation=False, quality="fast", allow_truncated=True)
    settings = preprocess_settings(spec, deployment)
    config = parsed(render_all(spec, deployment)["clip_image_preprocess/config.pbtxt"])
    parameters = {key: value.string_value for key, value in config.parameters.items()}
    assert PreprocessSettings.from_parameters(parameters) == settings


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"interpolation": "lanczos"}, "lanczos"),
        ({"image_width": "wide"}, "wide"),
        ({"resize_mode": None}, "resize_mode"),
    ],
)
def test_wrong_parameters_are_named(spec: ModelSpec, change: dict[str, str | None], message: str) -> None:
    sound = preprocess_settings(spec, DeploymentSettings()).to_parameters()
    parameters: dict[str, str | None] = {**sound, **change}
    with pytest.raises(SettingsError, match=message):
        PreprocessSettings.from_parameters({k: v for k, v in parameters.items() if v is not None})


def test_spec_survives_json(spec: ModelSpec) -> None:
    assert ModelSpec.from_json(spec.to_json()) == spec


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"spec_version": 1}', '{"spec_version": 1, "colour": 1}'])
def test_a_spec_that_does_not_fit_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError):
        ModelSpec.from_json(text)
