"""`clip-render`: edited settings into configs, without torch."""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from clip_serving.files import locked
from clip_serving.repository.cli import main
from clip_serving.repository.deployment import DEPLOYMENT_FILE, Deployment
from clip_serving.repository.families.image import IMAGE
from testing.repositories import read_config, rendered_repository

PREPROCESS = "clip_image_preprocess/config.pbtxt"
ENCODERS = [
    *(f"clip_image_encoder/configs/{name}.pbtxt" for name in ("cpu", "tensorrt", "torchscript")),
    "clip_image_encoder/config.pbtxt",
]
"""They state the settings of the pixels."""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return rendered_repository(tmp_path / "repository")


def render(repository: Path, *arguments: str) -> int:
    return main(["--repository", str(repository), *arguments])


def edit(repository: Path, before: str, after: str) -> None:
    path = repository / DEPLOYMENT_FILE
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))


def max_pixels(repository: Path) -> str:
    return str(read_config(repository / PREPROCESS).parameters["max_pixels"].string_value)


def test_an_edited_file_is_rendered(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(repository, '"max_pixels": 100000000', '"max_pixels": 9')
    assert render(repository, "--check") == 1
    said = capsys.readouterr()
    assert said.out.splitlines() == [PREPROCESS, *ENCODERS]
    assert f"render them: clip-render --repository {repository}" in said.err
    assert max_pixels(repository) == "100000000", "--check changes nothing"
    assert render(repository) == 0
    said = capsys.readouterr()
    assert said.out.splitlines() == [PREPROCESS, *ENCODERS]
    assert "5 files changed. Restart the server to use them" in said.err
    assert max_pixels(repository) == "9"
    assert render(repository, "--check") == 0
    assert render(repository) == 0
    assert "nothing changed" in capsys.readouterr().err


def test_a_flag_changes_the_file_and_the_configs(repository: Path) -> None:
    assert render(repository, "--max-batch-size", "12", "--preferred-batch-sizes", "4,12") == 0
    settings = Deployment.load(repository).settings(IMAGE)
    assert (settings.max_batch_size, settings.preferred_batch_sizes) == (12, (4, 12))
    assert read_config(repository / PREPROCESS).max_batch_size == 12


def test_an_earlier_version_is_activated(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert render(repository, "--activate", "1") == 0
    config = read_config(repository / "clip_image_encoder" / "config.pbtxt")
    assert list(config.version_policy.specific.versions) == [1]
    assert render(repository, "--activate", "7") == 2
    assert "version 7 of clip_image_encoder, which is missing; it has 1" in capsys.readouterr().err


def test_a_mistake_in_the_file_changes_nothing(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(repository, '"high"', '"higher"')
    before = {path: path.read_bytes() for path in repository.rglob("*") if path.is_file()}
    assert render(repository) == 2
    said = f'{repository}/deployment.json: image.preprocess.quality is "higher". Allowed: exact, high, fast'
    assert said in capsys.readouterr().err
    assert {path: path.read_bytes() for path in repository.rglob("*") if path.is_file()} == before


def test_a_repository_that_cannot_be_written_is_named(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (repository / "clip_image_encoder" / "configs" / "cpu.pbtxt").unlink()
    (repository / "clip_image_encoder" / "configs" / "cpu.pbtxt").mkdir()
    assert render(repository, "--quality", "fast") == 2
    assert "cpu.pbtxt" in capsys.readouterr().err


def test_changes_at_the_same_time_are_both_kept(repository: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        with locked(repository):
            rendering = pool.submit(render, repository, "--max-batch-size", "12")
            time.sleep(0.5)  # without a lock it would be done by now, and the next line would undo it
            edit(repository, '"max_pixels": 100000000', '"max_pixels": 9')
        assert rendering.result(60) == 0
    settings = Deployment.load(repository).settings(IMAGE)
    assert (settings.max_batch_size, settings.max_pixels) == (12, 9)


def test_a_config_that_is_not_text_is_rendered_again(repository: Path) -> None:
    (repository / PREPROCESS).write_bytes(b"\xff\xfe")
    assert render(repository, "--check") == 1
    assert render(repository) == 0
    assert read_config(repository / PREPROCESS).instance_group[0].count == 4


def test_a_spec_that_is_not_text_is_named(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (repository / "clip_image_encoder" / "1" / "spec.json").write_bytes(b"\xff\xfe")
    assert render(repository) == 2
    assert "clip_image_encoder/1/spec.json: 'utf-8' codec can't decode" in capsys.readouterr().err


def test_check_takes_no_settings(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        render(repository, "--check", "--max-batch-size", "3")
    assert ended.value.code == 2
    assert "--check changes nothing, so it cannot be combined with settings" in capsys.readouterr().err


def test_no_repository(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert render(tmp_path) == 2
    assert "is not a clip-triton model repository" in capsys.readouterr().err


def test_it_needs_neither_torch_nor_an_engine() -> None:
    code = "import sys; from clip_serving.repository import cli\n"
    code += "assert not {'torch', 'onnxruntime', 'openvino'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
