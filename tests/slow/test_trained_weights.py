"""Trained weights, exported and served: what random ones cannot show of precisions, neighbors and labels.

The model is an image classifier and not CLIP (testing/classifier.py), as no package holds CLIP's weights.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from clip_client import ClipClient
from clip_serving import defaults
from clip_serving.encoder.choice import choose
from clip_serving.encoder.cpu import Cpu
from clip_serving.encoder.engines import OpenVinoEncoder
from clip_serving.encoder.proof import Proof
from clip_serving.repository.versions import served_version
from clip_serving.server.embedded import ServerOptions
from testing import classifier
from testing.pictures import encoded, source_picture
from testing.scenes import SCENES, SHOTS, take
from testing.servers import short_lived
from tools.demo.__main__ import ROOT
from tools.demo.neighbors import nearest, same_scene

pytestmark = pytest.mark.slow
_CLASSES = {
    "chelsea.png": {281, 282, 283, 285},  # tabby, tiger cat, Persian, Egyptian cat
    "coffee.png": {504, 967, 968},  # mug, espresso, cup
    "rocket.jpg": {657, 744, 812},  # missile, projectile, space shuttle
}
"""ImageNet's classes of scikit-image's pictures."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("classifier")


@pytest.fixture(scope="module")
def summary(folder: Path) -> dict[str, Any]:
    """What clip-export says of the model; the repository is folder/repository."""
    exporter = Path(os.environ.get("CLIP_EXPORT", ROOT / ".venv-export" / "bin" / "clip-export"))
    write = [
        str(exporter.with_name("python")),
        str(ROOT / "testing" / "classifier.py"),
        str(folder / "model"),
    ]
    export = [str(exporter), f"--model=local-dir:{folder / 'model'}", "--towers=image", "--json"]
    formats = "--formats=onnx-fp32,onnx-fp16,onnx-int8"
    subprocess.run(write, check=True)
    done = subprocess.run(
        [*export, formats, f"--repository={folder / 'repository'}"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert "this model has none" in done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def version(folder: Path, summary: dict[str, Any]) -> Path:
    assert not summary["random_weights"]
    return served_version(folder / "repository")


def test_fp16_keeps_outliers_and_int8_has_nothing_to_quantize(summary: dict[str, Any], version: Path) -> None:
    assert summary["min_cosine"].keys() == {"fp32", "fp16"}
    assert summary["min_cosine"]["fp16"] > 0.9999
    assert not (version / defaults.ONNX_INT8_FILE).exists()


def test_openvino_equals_onnxruntime(version: Path) -> None:
    encoder = OpenVinoEncoder(version / defaults.ONNX_FP32_FILE, 1, "fp32")
    assert Proof.load(version).least_cosine(encoder.embed) > 0.99999


@pytest.mark.skipif(not Cpu.here().has_bf16, reason="this CPU has no BF16")
def test_bf16_is_near_or_not_served(version: Path) -> None:
    cosine = Proof.load(version).least_cosine(OpenVinoEncoder(version / "model.onnx", 1, "bf16").embed)
    chosen = choose(version, "auto", 1)
    assert chosen.precision == ("bf16" if cosine >= defaults.MIN_COSINE["bf16"] else "fp32"), str(chosen)


def test_shots_of_a_scene_find_each_other_and_pictures_their_class(folder: Path, version: Path) -> None:
    del version
    names = [f"{scene.name}/{shot.name}" for scene in SCENES for shot in SHOTS]
    photos = [take(scene, shot, seed=1, megapixels=0.3) for scene in SCENES for shot in SHOTS]
    pictures = [encoded(source_picture(name), "JPEG", quality=95) for name in _CLASSES]
    with (
        short_lived(folder / "repository", ServerOptions(encoder_precision="fp32")) as server,
        ClipClient(server.grpc_url) as client,
    ):
        vectors, labelled = client.embed(photos), client.embed(pictures)
    assert same_scene(nearest(names, vectors)) >= 0.9 * len(names)
    head: npt.NDArray[np.float32] = np.load(folder / "model" / classifier.HEAD_FILE)
    found = np.argmax(labelled @ head.T, axis=1).tolist()
    assert all(best in classes for best, classes in zip(found, _CLASSES.values(), strict=True)), found
