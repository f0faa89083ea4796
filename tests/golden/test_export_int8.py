"""int8 at export: judged by real photos, and published only where it is near enough to fp32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image

from clip_export import graph, pictures, verify
from clip_export.artifacts import write_int8
from clip_export.cli import main
from clip_export.errors import ExportError, ParityError
from clip_export.load import LoadedModel, load
from clip_serving.encoder.choice import choose
from clip_serving.encoder.engines import OnnxEncoder
from clip_serving.encoder.proof import Proof
from clip_serving.errors import ConfigurationError
from clip_serving.repository.spec import SPEC_FILE, ModelSpec
from testing import towers
from testing.pictures import camera_photos

_FORMATS = ("--formats", "onnx-fp32,onnx-int8")


def export(repository: Path, *arguments: str) -> int:
    model = ("--model", towers.SMALL, "--pretrained", "none", "--seed", "1")
    return main([*model, "--repository", str(repository), *_FORMATS, *arguments])


def version_of(repository: Path) -> Path:
    return repository / "clip_image_encoder" / "1"


@pytest.fixture(scope="module")
def small() -> LoadedModel:
    return load(towers.SMALL, "none", seed=1)


@pytest.fixture(scope="module")
def fp32(small: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fp32") / "model.onnx"
    graph.write_onnx(graph.ServedImageTower(small.model.visual, small.spec).eval(), small.spec, path)
    return path


@pytest.fixture(scope="module")
def proof(small: LoadedModel) -> Proof:
    return verify.photo_proof(small)


@pytest.fixture
def bad_quantization(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real one, whose weights of one layer then come back three times too large."""
    sound = graph.write_int8

    def write(fp32: Path, path: Path) -> None:
        sound(fp32, path)
        model = onnx.load(str(path))
        scales = [one for one in model.graph.initializer if one.name.endswith("_scale")]
        worst = scales[len(scales) // 2]
        worst.CopyFrom(numpy_helper.from_array(3 * numpy_helper.to_array(worst), worst.name))
        onnx.save(model, str(path))

    monkeypatch.setattr(graph, "write_int8", write)


def test_int8_is_verified_on_your_own_photos(small: LoadedModel, fp32: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for index, photo in enumerate(camera_photos(8, seed=4)):
        (photos / f"{index}.jpg").write_bytes(photo)
    (photos / "notes.txt").write_text("no photo")
    (photos / "broken.jpg").write_bytes(b"no photo either")
    (tmp_path / "model.onnx").symlink_to(fp32)
    said: list[str] = []
    results = write_int8(tmp_path, verify.photo_proof(small, photos), said.append, required=True)
    assert [(one.batch, one.photos) for one in results] == [(1, 8), (8, 8)]
    assert all(0.99 <= one.min_cosine <= one.mean_cosine < 0.999999 for one in results)
    assert (tmp_path / "model.int8.onnx").is_file()
    assert "8 photos: max abs difference" in said[1]


@pytest.mark.usefixtures("bad_quantization")
def test_a_bad_int8_is_not_published(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export(tmp_path) == 0
    assert "NOT OFFERED" in capsys.readouterr().err
    version = version_of(tmp_path)
    assert sorted(path.name for path in version.iterdir()) == [
        "model.onnx", "model.py", "proof.npz", "spec.json",
    ]  # fmt: skip
    assert ModelSpec.load(version / SPEC_FILE).min_cosine["int8"] < 0.99
    with pytest.raises(ConfigurationError, match=r"the export rejected int8: its cosine to fp32 was"):
        choose(version, "int8", 1)
    config = tmp_path / "clip_image_encoder" / "configs" / "cpu.pbtxt"
    before = config.read_text()
    again = ["--activate", "1", "--repository", str(tmp_path), "--encoder-precision"]
    assert main([*again, "int8"]) == 2
    assert config.read_text() == before
    assert main([*again, "fp32"]) == 0
    assert '"fp32"' in config.read_text()


@pytest.mark.usefixtures("bad_quantization")
def test_a_bad_int8_that_was_requested_ends_the_export(fp32: Path, proof: Proof, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").symlink_to(fp32)
    with pytest.raises(ParityError, match=r"Nothing was published. Choose auto") as caught:
        write_int8(tmp_path, proof.first(8), print, required=True)
    assert caught.value.exit_status == 1


def test_the_proof_is_open_clips_own(fp32: Path, proof: Proof, tmp_path: Path) -> None:
    proof.first(8).save(tmp_path)
    kept = Proof.load(tmp_path)
    assert kept.pixels.shape == (8, 224, 224, 3)
    assert kept.least_cosine(OnnxEncoder(fp32, 1).embed) > 0.999999
    wrong = Proof(kept.pixels[::-1], kept.embeddings)
    assert wrong.least_cosine(OnnxEncoder(fp32, 1).embed) < 0.99


def test_natural_pictures_are_many_and_reproducible() -> None:
    first, again = pictures.natural_pictures(32), pictures.natural_pictures(32)
    assert [np.asarray(a).tobytes() for a in first] == [np.asarray(b).tobytes() for b in again]
    assert len({picture.tobytes() for picture in first}) == 32
    assert all(picture.mode == "RGB" for picture in first)


def test_files_that_are_not_photos_are_named(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="is not a folder"):
        pictures.own_pictures(tmp_path / "absent", 1, 8)
    (tmp_path / "a.jpg").write_bytes(b"no photo")
    with pytest.raises(ExportError, match=r"has too few readable photos: 0 of at least 1"):
        pictures.own_pictures(tmp_path, 1, 8)
    Image.new("RGB", (5000, 10), "red").save(tmp_path / "b.png")
    (picture,) = pictures.own_pictures(tmp_path, 1, 8)
    assert max(picture.size) <= 1024


def test_int8_needs_fp32(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--repository", str(tmp_path), "--formats", "onnx-int8"])
    assert "made from onnx-fp32: name both" in capsys.readouterr().err
    arguments = ["--formats", "onnx-fp32", "--encoder-precision", "int8"]
    assert main(["--repository", str(tmp_path), *arguments]) == 2
    assert "needs onnx-int8" in capsys.readouterr().err
