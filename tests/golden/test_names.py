"""A second model is exported under a name; a server embeds with both as with each of them alone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from clip_client import ClipClient, check
from clip_client.requests.wire import Embedding
from clip_export.cli import main as export
from clip_serving.repository.deployment import DEPLOYMENT_FILE
from clip_serving.repository.families import families
from clip_serving.repository.spec import SPEC_FILE, ModelSpec
from testing.pictures import camera_photos
from tests.golden.conftest import served

LARGE = "clip_image_large"
SMALL = ("--model", "ViT-tiny-32", "--pretrained", "none", "--formats", "onnx-fp32")


def test_a_version_of_a_set_is_chosen_by_its_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for version in ("1", "2"):
        folder = tmp_path / "clip_image_large_encoder" / version
        folder.mkdir(parents=True)
        shutil.copy("tools/default_spec.json", folder / SPEC_FILE)
    (tmp_path / DEPLOYMENT_FILE).write_text(json.dumps({"version": 1, "image_large": {}}))
    assert export(["--activate", "1", "--repository", str(tmp_path), "--name", "large"]) == 0
    assert "specific" in (tmp_path / "clip_image_large_encoder" / "config.pbtxt").read_text()
    assert not (tmp_path / "clip_image").exists()
    assert export(["--activate", "1", "--repository", str(tmp_path)]) == 2
    assert "no version 1 of the encoder" in capsys.readouterr().err


@pytest.mark.slow
def test_two_exported_models_side_by_side(small_repository: Path, tmp_path: Path) -> None:
    repository = tmp_path / "both"
    shutil.copytree(small_repository, repository)
    before = files_of(repository, "")
    assert export([*SMALL, "--seed", "1", "--name", "large", "--repository", str(repository)]) == 0
    assert files_of(repository, "") == before, "the first model's files stay as they are"
    (photo,) = camera_photos(1, seed=5)
    with served(repository, "exact") as url:
        first, large = vectors(url, "clip_image", photo), vectors(url, LARGE, photo)
        for model in ("clip_image", LARGE):
            assert check(url, model=model).ok
        assert digest(url, "clip_image") != digest(url, LARGE) == spec(repository).weights_sha256
        text = texts(url, LARGE)
        refuse_to_mix(url, tmp_path, photo)
    assert float(first @ large) < 0.9, "other weights embed otherwise"

    with served(small_repository, "exact") as url:
        np.testing.assert_allclose(vectors(url, "clip_image", photo), first, atol=1e-6)
    remove(repository, "")
    with served(repository, "exact") as url:
        np.testing.assert_allclose(vectors(url, LARGE, photo), large, atol=1e-6)
        np.testing.assert_allclose(texts(url, LARGE), text, atol=1e-6)


def vectors(url: str, model: str, photo: bytes) -> Embedding:
    with ClipClient(url, model=model) as client:
        row: Embedding = client.embed([photo])[0]
        return row


def texts(url: str, model: str) -> Embedding:
    with ClipClient(url, model=model) as client:
        return client.embed_text(["a cat", "two people at sunset"])


def digest(url: str, model: str) -> str:
    with ClipClient(url, model=model) as client:
        return client.info.parameters["weights_sha256"]


def spec(repository: Path) -> ModelSpec:
    return ModelSpec.load(repository / "clip_image_large_encoder" / "1" / SPEC_FILE)


def refuse_to_mix(url: str, folder: Path, photo: bytes) -> None:
    """With the command of the environment that has pyarrow."""
    (folder / "photos").mkdir()
    (folder / "photos" / "a.jpg").write_bytes(photo)
    program = Path(os.environ.get("CLIP_SERVE", "clip-serve")).with_name("clip-embed")
    command = [str(program), str(folder / "photos"), "--out", str(folder / "out.parquet"), "--url", url]
    assert subprocess.run([*command, "--model", LARGE], check=False).returncode == 0
    done = subprocess.run([*command, "--resume"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "another model's embeddings (ViT-tiny-32, random:seed=1)" in done.stderr


def files_of(repository: Path, set_name: str) -> dict[str, bytes]:
    models = [model for family in families(set_name) for model in family.models]
    paths = [path for model in models for path in (repository / model).rglob("*") if path.is_file()]
    return {str(path): path.read_bytes() for path in paths}


def remove(repository: Path, set_name: str) -> None:
    """As docs/how-to/change-model.md says."""
    path = repository / DEPLOYMENT_FILE
    sections = json.loads(path.read_text())
    for family in families(set_name):
        sections.pop(family.name, None)
        for model in family.models:
            shutil.rmtree(repository / model, ignore_errors=True)
    path.write_text(json.dumps(sections))
