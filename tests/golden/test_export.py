"""The export on several towers: right by open_clip's own measure, refused when it is not."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from clip_export import graph, verify
from clip_export.cli import main
from clip_export.errors import HubUnreachable, LoadError, ParityError
from clip_export.load import LoadedModel, load
from clip_export.pictures import sample_pictures
from clip_export.publish import staging
from clip_serving.encoder.choice import choose
from clip_serving.repository.deployment import Deployment
from clip_serving.repository.families.image import IMAGE
from clip_serving.repository.spec import SPEC_FILE, ModelSpec
from clip_serving.repository.versions import versions
from testing import towers


@pytest.fixture(scope="module")
def small() -> LoadedModel:
    return load(towers.SMALL, "none", seed=1)


def export(repository: Path, *arguments: str) -> int:
    return main(["--pretrained", "none", "--repository", str(repository), *arguments])


def spec_of(repository: Path, version: int = 1) -> ModelSpec:
    return ModelSpec.load(repository / "clip_image_encoder" / str(version) / SPEC_FILE)


def test_all_formats_of_one_tower(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export(tmp_path, "--model", towers.SMALL, "--encoder-precision", "int8", "--json") == 0
    said = capsys.readouterr()
    assert "RANDOM WEIGHTS" in said.err
    summary = json.loads(said.out)
    parity = summary["parity"]
    assert {(entry["artifact"], entry["batch"]) for entry in parity} == {
        *((artifact, batch) for artifact in ("onnx-fp32", "onnx-fp16", "torchscript") for batch in (1, 3, 8)),
        *(("onnx-int8", batch) for batch in (1, 8, 32)),
    }
    assert "32 photos: max abs difference" in said.err
    least = spec_of(tmp_path).min_cosine
    assert summary["min_cosine"] == least
    assert least["fp32"] > 0.999999
    assert 0.99 <= least["int8"] < 0.999999, "near, and not secretly fp32"
    assert '"int8"' in (tmp_path / "clip_image_encoder" / "configs" / "cpu.pbtxt").read_text()
    folder = tmp_path / "clip_image_encoder" / "1"
    assert str(choose(folder, "int8", 1)).startswith("int8 in onnxruntime, 1 thread, cosine to fp32 0.99")
    assert sorted(path.name for path in folder.iterdir()) == [
        "model.fp16.onnx", "model.int8.onnx", "model.onnx", "model.pt", "model.py", "proof.npz", "spec.json",
    ]  # fmt: skip
    assert spec_of(tmp_path).artifacts == {
        **{name: {"opset": 18, "ir_version": 10, "oldest_triton": "24.10"} for name in (
            "model.fp16.onnx", "model.int8.onnx", "model.onnx")},
        "model.pt": {"torch": torch.__version__.partition("+")[0], "oldest_triton": "26.05"},
    }  # fmt: skip
    text = tmp_path / "clip_text_encoder" / "1"
    assert sorted(path.name for path in text.iterdir()) == [
        "model.fp16.onnx", "model.onnx", "model.pt", "model.py", "spec.json",
    ]  # fmt: skip
    written = onnx.load(str(folder / "model.onnx"))
    assert written.ir_version <= 10
    assert [tensor.name for tensor in written.graph.input] == ["pixels", "valid"]
    assert written.graph.input[0].type.tensor_type.shape.dim[0].dim_param


@pytest.mark.slow
def test_a_squashing_tower_with_its_tags_preprocess(tmp_path: Path) -> None:
    model = ("--model", "ViT-B-16-SigLIP-256", "--preprocess-from", "webli")
    arguments = (*model, "--formats", "onnx-fp32", "--towers", "image")  # its tokenizer is on the hub
    assert export(tmp_path, *arguments) == 0
    spec = spec_of(tmp_path)
    assert (spec.image_size, spec.resize_mode, spec.embedding_dim) == ((256, 256), "squash", 768)
    assert spec.mean == (0.5, 0.5, 0.5)
    config = (tmp_path / "clip_image_preprocess" / "config.pbtxt").read_text()
    assert "dims: 256" in config
    assert '"squash"' in config


@pytest.mark.slow
def test_a_resnet(tmp_path: Path) -> None:
    assert export(tmp_path, "--model", "RN50", "--formats", "onnx-fp32") == 0
    assert spec_of(tmp_path).embedding_dim == 1024


@pytest.mark.parametrize("change", ["mean", "std"])
def test_a_graph_with_wrong_embeddings_is_rejected(small: LoadedModel, tmp_path: Path, change: str) -> None:
    half = (0.5, 0.5, 0.5)
    wrong = dataclasses.replace(small.spec, **{change: half})  # type: ignore[arg-type]
    tower = graph.ServedImageTower(small.model.visual, wrong).eval()
    path = tmp_path / "model.pt"
    graph.write_torchscript(tower, small.spec, path)
    lines: list[str] = []
    with pytest.raises(ParityError, match="nothing was published"):
        verify.verify(
            "torchscript", verify.torchscript_encoder(path), small, verify.FP32_TOLERANCE, lines.append
        )
    assert "REJECTED" in lines[0]


def test_a_broken_mask_is_rejected(small: LoadedModel) -> None:
    wanted = verify.reference_embeddings(small, sample_pictures(8))

    def unmasked(pixels: np.ndarray, valid: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        del valid
        return wanted[: len(pixels)]

    with pytest.raises(ParityError, match="must be NaN"):
        verify.verify("unmasked", unmasked, small, verify.FP32_TOLERANCE, print)


def test_a_failed_export_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with staging(tmp_path) as folder:
            (folder / "model.onnx").write_bytes(b"half")
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_versions_stay_and_can_be_activated_again(tmp_path: Path) -> None:
    common = ("--model", towers.SMALL, "--formats", "torchscript")
    assert export(tmp_path, *common, "--seed", "1", "--quality", "exact") == 0
    assert export(tmp_path, *common, "--seed", "2") == 0
    assert versions(tmp_path) == [1, 2]
    settings = Deployment.load(tmp_path).settings(IMAGE)
    assert (settings.quality, settings.encoder_version) == ("exact", 2), "settings stay"
    first, second = spec_of(tmp_path, 1), spec_of(tmp_path, 2)
    assert first.weights_sha256 != second.weights_sha256
    ensemble = tmp_path / "clip_image" / "config.pbtxt"
    assert second.weights_sha256 in ensemble.read_text()
    assert main(["--activate", "1", "--repository", str(tmp_path)]) == 0
    assert first.weights_sha256 in ensemble.read_text()
    assert "specific" in (tmp_path / "clip_image_encoder" / "config.pbtxt").read_text()
    assert main(["--activate", "7", "--repository", str(tmp_path)]) == 2


def test_a_checkpoint_file_gives_the_same_weights(small: LoadedModel, tmp_path: Path) -> None:
    path = tmp_path / "mine.pt"
    torch.save(small.model.state_dict(), path)
    again = load(towers.SMALL, str(path))
    assert again.spec.weights_sha256 == small.spec.weights_sha256
    assert (again.spec.pretrained, again.spec.random_weights) == ("mine.pt", False)


def test_a_checkpoint_with_missing_keys_is_refused(small: LoadedModel, tmp_path: Path) -> None:
    state = small.model.state_dict()
    del state["visual.conv1.weight"]
    torch.save(state, tmp_path / "part.pt")
    with pytest.raises(LoadError, match="cannot be loaded"):
        load(towers.SMALL, str(tmp_path / "part.pt"))


@pytest.mark.parametrize(
    ("name", "pretrained", "message"),
    [
        ("ViT-B-33", "none", "no model 'ViT-B-33'. Similar names: .*ViT-B-32"),
        ("ViT-B-32", "laion9", "neither a file nor a pretrained tag .*laion2b_s34b_b79k"),
    ],
)
def test_a_misspelled_name_gets_suggestions(name: str, pretrained: str, message: str) -> None:
    with pytest.raises(LoadError, match=message):
        load(name, pretrained)


def test_an_unreachable_hub_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(HubUnreachable, match="--pretrained none"):
        load("ViT-B-32", "laion2b_s34b_b79k")


def test_help_needs_no_torch() -> None:
    code = "import sys; sys.argv=['clip-export','--help']; from clip_export.cli import main\n"
    code += "try: main()\nexcept SystemExit: pass\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
