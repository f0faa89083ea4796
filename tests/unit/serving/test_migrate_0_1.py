"""A repository that clip-export 0.1 made: its settings move from its configs to deployment.json, once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from clip_serving.errors import ConfigurationError
from clip_serving.repository.deployment import DEPLOYMENT_FILE, Deployment
from clip_serving.repository.families.image import IMAGE
from clip_serving.repository.families.image.settings import ImageSettings
from clip_serving.repository.render import configs
from clip_serving.repository.stage import stage
from clip_serving.repository.versions import load_specs, served_version
from testing.repositories import without_additions

OLD = Path(__file__).parent / "data" / "repository_0_1"
"""As 0.1 rendered it, with no setting at its default; without weights."""
SETTINGS = ImageSettings(
    max_batch_size=16,
    preprocess_instances=7,
    preprocess_threads=2,
    max_queue_size=256,
    quality="exact",
    apply_exif_orientation=False,
    allow_truncated=True,
    max_bytes=1234,
    max_pixels=5678,
    decode_timeout_s=4.5,
    encoder_instances=3,
    encoder_threads=2,
    encoder_precision="int8",
    preferred_batch_sizes=(4, 16),
    max_queue_delay_us=700,
    encoder_version=2,
)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    root = tmp_path / "repository"
    shutil.copytree(OLD, root)
    return root


def test_settings_move_to_the_file_with_a_message(old: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert Deployment.load(old).settings(IMAGE) == SETTINGS
    assert f"The settings in its configs are now in {old}/deployment.json" in caplog.text
    assert f"clip-render --repository {old}" in caplog.text
    caplog.clear()
    assert Deployment.load(old).settings(IMAGE) == SETTINGS
    assert not caplog.text, "once"


def test_the_migrated_settings_render_what_0_1_rendered(old: Path) -> None:
    deployment = Deployment.load(old)
    for path, config in configs(deployment, load_specs(old, deployment)).items():
        without_additions(config)
        # 0.1 had no config of its own for the ensemble on a CPU.
        old_path = OLD / path.replace("clip_image/configs/cpu", "clip_image/config")
        before = text_format.Parse(old_path.read_text(), pb.ModelConfig())
        if config.backend != "python":
            without_gpu_settings(config)
            without_gpu_settings(before)
        assert config == before, path
    assert served_version(old) == old / "clip_image_encoder" / "2"


def test_the_file_comes_first(old: Path) -> None:
    path = old / DEPLOYMENT_FILE
    path.write_text('{"version": 1, "image": {}}')
    assert Deployment.load(old).settings(IMAGE) == ImageSettings()


def test_a_read_only_repository_is_migrated_in_memory(
    old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    (tmp_path / "staged").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr("clip_serving.repository.deployment.write_atomically", refuse)
        stage(old, tmp_path / "staged", lambda now: now)
        assert Deployment.load(old).settings(IMAGE) == SETTINGS
    (said,) = caplog.messages
    assert "are used from memory" in said
    assert f"{old}/deployment.json cannot be written (Read-only file system)" in said
    assert not (old / DEPLOYMENT_FILE).exists()
    assert Deployment.load(tmp_path / "staged").settings(IMAGE) == SETTINGS


def test_a_parameter_that_an_older_release_did_not_write_is_the_default(old: Path) -> None:
    path = old / "clip_image_preprocess" / "config.pbtxt"
    path.write_text(path.read_text().replace('"decode_timeout_s"', '"decode_seconds"'))
    assert Deployment.load(old).settings(IMAGE).decode_timeout_s == ImageSettings().decode_timeout_s


@pytest.mark.parametrize(
    ("path", "before", "after", "message"),
    [
        (
            "clip_image_preprocess/config.pbtxt",
            '"exact"',
            '"best"',
            "parameter quality is 'best'. Allowed",
        ),
        ("clip_image_preprocess/config.pbtxt", "instance_group", "instance_grp", "instance_grp"),
        ("clip_image_encoder/configs/cpu.pbtxt", '"int8"', '"int7"', "the parameter precision is 'int7'"),
    ],
)
def test_what_cannot_be_read_is_named_and_nothing_written(
    old: Path, path: str, before: str, after: str, message: str
) -> None:
    file = old / path
    file.write_text(file.read_text().replace(before, after))
    with pytest.raises(ConfigurationError) as caught:
        Deployment.load(old)
    assert str(file) in str(caught.value)
    assert message in str(caught.value)
    assert not (old / DEPLOYMENT_FILE).exists()


def test_a_model_that_is_missing_is_named(old: Path) -> None:
    (old / "clip_image_preprocess" / "config.pbtxt").unlink()
    with pytest.raises(ConfigurationError, match=r"clip_image_preprocess/config\.pbtxt"):
        Deployment.load(old)


def without_gpu_settings(config: pb.ModelConfig) -> None:
    """Removes what later releases changed for a GPU."""
    config.dynamic_batching.ClearField("preferred_batch_size")
    for accelerator in config.optimization.execution_accelerators.gpu_execution_accelerator:
        accelerator.parameters.pop("trt_engine_cache_prefix", None)
    config.optimization.ClearField("graph")
    if not config.optimization.HasField("execution_accelerators"):
        config.ClearField("optimization")
    config.ClearField("model_warmup")
    for name in ("cudnn_conv_algo_search", "intra_op_thread_count"):
        config.parameters.pop(name, None)
