"""The committed configs are the default model's, and rendered configs are what Triton understands."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from clip_preprocess.errors import SettingsError
from clip_preprocess.settings import PIXELS_VERSION, PreprocessSettings
from clip_serving.errors import ConfigurationError
from clip_serving.repository.deployment import Deployment
from clip_serving.repository.families.image import IMAGE
from clip_serving.repository.families.image.settings import ImageSettings, preprocess_settings
from clip_serving.repository.render import outdated_configs, render, render_repository, write_repository
from clip_serving.repository.spec import ModelSpec
from testing.repositories import rendered_repository
from tools.render_default import REPOSITORY, SPEC


@pytest.fixture
def spec() -> ModelSpec:
    return ModelSpec.load(SPEC)


def render_image(spec: ModelSpec, **settings: Any) -> dict[str, str]:
    return render(Deployment.of(IMAGE, ImageSettings(**settings)), {IMAGE.name: spec})


def write_image(root: Path, spec: ModelSpec, **settings: Any) -> None:
    write_repository(root, Deployment.of(IMAGE, ImageSettings(**settings)), {IMAGE.name: spec})


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def parsed(text: str) -> pb.ModelConfig:
    return text_format.Parse(text, pb.ModelConfig())


def test_committed_configs_are_the_default_models(spec: ModelSpec, tmp_path: Path) -> None:
    write_image(tmp_path, spec)
    rendered = {
        path.relative_to(tmp_path): path.read_text() for path in tmp_path.rglob("*") if path.is_file()
    }
    committed = {path: (REPOSITORY / path).read_text() for path in rendered}
    assert committed == rendered, "run `make configs` and commit the result"


def test_every_variant_of_the_encoder_has_the_same_inputs(spec: ModelSpec) -> None:
    encoders = [parsed(text) for path, text in render_image(spec).items() if "encoder" in path]
    assert len(encoders) == 4
    assert len({str(list(config.input)) for config in encoders}) == 1


def test_production_encoder_is_fp16_onnx_on_the_gpu(spec: ModelSpec) -> None:
    config = parsed(render_image(spec)["clip_image_encoder/config.pbtxt"])
    assert config.backend == "onnxruntime"
    assert config.default_model_filename == "model.fp16.onnx"
    assert config.instance_group[0].kind == pb.ModelInstanceGroup.KIND_GPU
    assert config.max_batch_size == 64
    assert config.optimization.graph.level == 1
    values = {key: value.string_value for key, value in config.parameters.items()}
    assert (values["cudnn_conv_algo_search"], values["intra_op_thread_count"]) == ("1", "1")


@pytest.mark.parametrize("name", ["config", "configs/cpu", "configs/tensorrt", "configs/torchscript"])
def test_the_encoder_states_its_pixels_and_what_the_ensemble_says(spec: ModelSpec, name: str) -> None:
    texts = render_image(spec, quality="exact", max_pixels=9)
    preprocess, encoder, ensemble = (
        {key: value.string_value for key, value in parsed(texts[path]).parameters.items()}
        for path in (
            "clip_image_preprocess/config.pbtxt",
            f"clip_image_encoder/{name}.pbtxt",
            "clip_image/config.pbtxt",
        )
    )
    stated = json.loads(encoder["preprocess"])
    assert (stated["quality"], stated["max_pixels"], stated["pixels_version"]) == (
        "exact",
        "9",
        str(PIXELS_VERSION),
    )
    assert stated.items() <= preprocess.items()
    assert ensemble.items() <= encoder.items()


GPU_CONFIGS = ("config.pbtxt", "configs/tensorrt.pbtxt", "configs/torchscript.pbtxt")


@pytest.mark.parametrize("path", GPU_CONFIGS)
@pytest.mark.parametrize(
    ("largest", "warm"), [(1, [1]), (2, [2, 1]), (12, [12, 8, 4, 2, 1]), (64, [64, 32, 16, 8, 4, 2, 1])]
)
def test_a_gpu_batches_by_delay_and_warms_up_what_occurs(
    spec: ModelSpec, path: str, largest: int, warm: list[int]
) -> None:
    config = parsed(render_image(spec, max_batch_size=largest)[f"clip_image_encoder/{path}"])
    assert not config.dynamic_batching.preferred_batch_size
    assert config.dynamic_batching.max_queue_delay_microseconds == 2000
    assert [warmup.batch_size for warmup in config.model_warmup] == warm


def test_a_cpu_encoder_has_preferred_sizes(spec: ModelSpec) -> None:
    config = parsed(render_image(spec)["clip_image_encoder/configs/cpu.pbtxt"])
    assert list(config.dynamic_batching.preferred_batch_size) == [8, 16, 32, 64]


@pytest.mark.parametrize(("settings", "limit"), [
    ({}, 64 + 2 * 4 * 4),
    ({"max_queue_size": 0}, 0),
    ({"max_queue_size": 1, "preprocess_instances": 1}, 32),
    ({"max_queue_size": 128, "preprocess_instances": 16}, 128 + 2 * 16 * 4),
])  # fmt: skip
def test_the_encoders_queue_is_bounded_above_what_preprocess_holds(
    spec: ModelSpec, settings: dict[str, Any], limit: int
) -> None:
    for path in ("clip_image/config.pbtxt", "clip_image/configs/torchscript.pbtxt"):
        config = parsed(render_image(spec, **settings)[path])
        assert config.ensemble_scheduling.max_inflight_requests == limit
    embedded = parsed(render_image(spec, **settings)["clip_image/configs/cpu.pbtxt"])
    assert embedded.ensemble_scheduling.max_inflight_requests == 0, "its release does not know the field"
    config = parsed(render_image(spec, **settings)["clip_image/config.pbtxt"])
    config.ensemble_scheduling.ClearField("max_inflight_requests")
    assert embedded == config


def test_tensorrt_variant_has_profiles_and_an_engine_cache(spec: ModelSpec) -> None:
    config = parsed(render_image(spec)["clip_image_encoder/configs/tensorrt.pbtxt"])
    (accelerator,) = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert accelerator.name == "tensorrt"
    assert accelerator.parameters["trt_profile_min_shapes"] == "pixels:1x224x224x3,valid:1x1"
    assert accelerator.parameters["trt_profile_max_shapes"] == "pixels:64x224x224x3,valid:64x1"
    assert accelerator.parameters["trt_engine_cache_enable"] == "true"
    assert config.optimization.graph.level == 1
    assert config.parameters["cudnn_conv_algo_search"].string_value == "1"


def test_tensorrt_engines_of_other_weights_or_constants_are_not_used(spec: ModelSpec) -> None:
    def prefix(**changes: Any) -> str:
        text = render_image(dataclasses.replace(spec, **changes))["clip_image_encoder/configs/tensorrt.pbtxt"]
        (accelerator,) = parsed(text).optimization.execution_accelerators.gpu_execution_accelerator
        return str(accelerator.parameters["trt_engine_cache_prefix"])

    mine, half = "a" * 64, (0.5, 0.5, 0.5)
    assert prefix(weights_sha256=mine).startswith("aaaaaaaaaaaaaaaa-")
    assert prefix(weights_sha256=mine, model="renamed") == prefix(weights_sha256=mine)
    others: list[dict[str, Any]] = [{}, {"weights_sha256": mine}, {"weights_sha256": mine, "mean": half}]
    others += [{"weights_sha256": "b" * 64}, {"weights_sha256": mine, "std": half}]
    assert len({prefix(**changes) for changes in others}) == len(others)


def test_torchscript_output_reaches_the_ensemble(spec: ModelSpec) -> None:
    texts = render_image(spec)
    encoder = parsed(texts["clip_image_encoder/configs/torchscript.pbtxt"])
    ensemble = parsed(texts["clip_image/configs/torchscript.pbtxt"])
    assert ensemble.ensemble_scheduling.step[1].output_map[encoder.output[0].name] == "embedding"


def test_instances_scale_apart(spec: ModelSpec) -> None:
    texts = render_image(spec, preprocess_instances=7, encoder_instances=2)
    assert parsed(texts["clip_image_preprocess/config.pbtxt"]).instance_group[0].count == 7
    assert parsed(texts["clip_image_encoder/config.pbtxt"]).instance_group[0].count == 2


def test_the_precision_is_the_cpu_encoders_and_bounds_the_reference(spec: ModelSpec) -> None:
    def rendered(precision: str) -> tuple[str, float]:
        texts = render_image(spec, encoder_precision=precision)
        encoder = parsed(texts["clip_image_encoder/configs/cpu.pbtxt"])
        ensemble = parsed(texts["clip_image/config.pbtxt"])
        least = float(ensemble.parameters["reference_min_cosine"].string_value)
        return encoder.parameters["precision"].string_value, least

    assert rendered("auto") == ("auto", 0.999)
    assert rendered("bf16") == ("bf16", 0.999)
    assert rendered("int8") == ("int8", 0.99)


def test_the_ensemble_reports_its_stages_settings(spec: ModelSpec) -> None:
    settings: dict[str, Any] = {"quality": "exact", "apply_exif_orientation": False, "max_bytes": 123}
    for path in ("clip_image/config.pbtxt", "clip_image/configs/torchscript.pbtxt"):
        told = parsed(render_image(spec, encoder_precision="bf16", **settings)[path]).parameters
        assert (told["quality"].string_value, told["encoder_precision"].string_value) == ("exact", "bf16")
        assert (told["max_bytes"].string_value, told["apply_exif_orientation"].string_value) == (
            "123",
            "false",
        )


def test_preferred_sizes_never_exceed_the_largest_batch(spec: ModelSpec) -> None:
    config = parsed(render_image(spec, max_batch_size=16)["clip_image_encoder/configs/cpu.pbtxt"])
    assert list(config.dynamic_batching.preferred_batch_size) == [8, 16]


def test_rollback_pins_a_version(spec: ModelSpec) -> None:
    config = parsed(render_image(spec, encoder_version=3)["clip_image_encoder/config.pbtxt"])
    assert list(config.version_policy.specific.versions) == [3]


def test_the_encoders_config_is_the_last_to_change(spec: ModelSpec) -> None:
    assert list(render_image(spec))[-1] == "clip_image_encoder/config.pbtxt"


def test_a_repository_is_rendered_again_from_its_own_file(tmp_path: Path) -> None:
    root = rendered_repository(tmp_path)
    path = root / "deployment.json"
    edited = path.read_text().replace('"max_pixels": 100000000', '"max_pixels":   9')
    path.write_text(edited)
    names = ["cpu", "tensorrt", "torchscript"]
    wanted = [
        "clip_image_preprocess/config.pbtxt",
        *(f"clip_image_encoder/configs/{name}.pbtxt" for name in names),
        "clip_image_encoder/config.pbtxt",
    ]
    assert outdated_configs(root) == wanted
    _, changed = render_repository(root)
    assert changed == wanted
    assert parsed((root / changed[0]).read_text()).parameters["max_pixels"].string_value == "9"
    assert outdated_configs(root) == []
    assert path.read_text() == edited, "the operator's layout of the file stays"
    assert render_repository(root)[1] == []


def test_a_config_that_was_edited_by_hand_is_named(tmp_path: Path) -> None:
    root = rendered_repository(tmp_path)
    ensemble, encoder = root / "clip_image" / "config.pbtxt", root / "clip_image_encoder" / "config.pbtxt"
    ensemble.write_text("# a comment is not a setting\n" + ensemble.read_text())
    assert outdated_configs(root) == []
    ensemble.write_text(ensemble.read_text() + "max_bach_size: 4\n")
    encoder.unlink()
    assert outdated_configs(root) == ["clip_image/config.pbtxt", "clip_image_encoder/config.pbtxt"]


def test_a_render_that_dies_between_two_files_is_finished_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, wanted = rendered_repository(tmp_path / "a"), rendered_repository(tmp_path / "b", max_batch_size=8)
    rename, left = os.replace, [3]

    def dying(source: Path, target: Path) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", dying)
        with pytest.raises(KeyboardInterrupt):
            render_repository(root, lambda now: now.replaced(IMAGE, max_batch_size=8))
    assert outdated_configs(root)
    render_repository(root)
    assert contents(root) == contents(wanted)


def test_int8_that_the_export_does_not_have_is_refused(tmp_path: Path) -> None:
    root = rendered_repository(tmp_path)
    before = contents(root)
    with pytest.raises(ConfigurationError, match=r"made without int8.*another --encoder-precision"):
        render_repository(root, lambda now: now.replaced(IMAGE, encoder_precision="int8"))
    assert contents(root) == before


def test_a_config_that_cannot_be_written_changes_none(spec: ModelSpec, tmp_path: Path) -> None:
    write_image(tmp_path, spec)
    variants = tmp_path / "clip_image_encoder" / "configs"
    shutil.rmtree(variants)
    variants.write_text("in the way")
    before = contents(tmp_path)
    with pytest.raises(FileExistsError):
        write_image(tmp_path, spec, preprocess_instances=9)
    assert contents(tmp_path) == before


def test_random_weights_are_named_in_every_config(spec: ModelSpec) -> None:
    texts = render_image(dataclasses.replace(spec, random_weights=True))
    assert all("RANDOM WEIGHTS" in text for text in texts.values())
    ensemble = parsed(texts["clip_image/config.pbtxt"])
    assert ensemble.parameters["random_weights"].string_value == "true"


def test_preprocess_settings_survive_the_config(spec: ModelSpec) -> None:
    chosen: dict[str, Any] = {
        "apply_exif_orientation": False,
        "quality": "fast",
        "allow_truncated": True,
        "background": "#ffffff",
    }
    settings = preprocess_settings(spec, ImageSettings(**chosen))
    config = parsed(render_image(spec, **chosen)["clip_image_preprocess/config.pbtxt"])
    parameters = {key: value.string_value for key, value in config.parameters.items()}
    assert PreprocessSettings.from_parameters(parameters) == settings
    assert parameters["pixels_version"] == str(PIXELS_VERSION)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"interpolation": "lanczos"}, "lanczos"),
        ({"image_width": "wide"}, "wide"),
        ({"resize_mode": None}, "resize_mode"),
    ],
)
def test_wrong_parameters_are_named(spec: ModelSpec, change: dict[str, str | None], message: str) -> None:
    sound = preprocess_settings(spec, ImageSettings()).to_parameters()
    parameters: dict[str, str | None] = {**sound, **change}
    with pytest.raises(SettingsError, match=message):
        PreprocessSettings.from_parameters({k: v for k, v in parameters.items() if v is not None})


def test_spec_survives_json(spec: ModelSpec) -> None:
    assert ModelSpec.from_json(spec.to_json()) == spec


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"spec_version": 1}', '{"spec_version": 1, "color": 1}'])
def test_a_spec_that_does_not_fit_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError):
        ModelSpec.from_json(text)
