"""Writes the chosen formats into a staging folder, and verifies each artifact."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import onnx
import torch

from clip_export import graph, verify
from clip_export.errors import ExportError, ParityError
from clip_export.load import LoadedModel
from clip_export.text import TextTower
from clip_serving import defaults
from clip_serving.encoder.engines import OnnxEncoder
from clip_serving.encoder.proof import Proof
from clip_serving.repository.families.base import MODEL_PY
from clip_serving.repository.spec import TowerSpec
from clip_serving.repository.stage import available_cores

Say = Callable[[str], None]
_FILES = {
    "onnx-fp32": defaults.ONNX_FP32_FILE,
    "onnx-fp16": defaults.ONNX_FP16_FILE,
    "torchscript": defaults.TORCHSCRIPT_FILE,
}
_TOLERANCES = {name: verify.FP16_TOLERANCE if "fp16" in name else verify.FP32_TOLERANCE for name in _FILES}


def write_and_verify(name: str, loaded: LoadedModel, folder: Path, say: Say) -> list[verify.Parity]:
    """Writes one format in open_clip's own precision or in fp16; raises ParityError past its tolerance."""
    half = name == "onnx-fp16"
    # half() changes a module in place, and the loaded model stays the reference.
    visual = copy.deepcopy(loaded.model.visual) if half else loaded.model.visual
    tower = graph.ServedImageTower(visual, loaded.spec, half=half)
    encoder = _written(name, tower, loaded.spec, folder, say)
    return verify.verify(name, encoder, loaded, _TOLERANCES[name], say)


def write_and_verify_text(name: str, text: TextTower, folder: Path, say: Say) -> list[verify.Parity]:
    """As write_and_verify(), the text tower."""
    tower = graph.ServedTextTower(text.module(), text.spec, half=name == "onnx-fp16")
    encoder = _written(name, tower, text.spec, folder, say)
    return verify.verify_text(f"text-{name}", encoder, text, _TOLERANCES[name], say)


def stage_text(
    formats: Sequence[str], text: TextTower, folder: Path, say: Say, tokenize_name: str = defaults.TOKENIZE
) -> list[verify.Parity]:
    """Fills `folder` with a version of the text encoder, and of the model that tokenizes for it."""
    parities = [parity for name in formats for parity in write_and_verify_text(name, text, folder, say)]
    tokenize = folder / tokenize_name
    tokenize.mkdir()
    for name, content in text.tokenizer.files.items():
        (tokenize / name).write_bytes(content)
    (tokenize / "model.py").write_text(MODEL_PY.format("tokenize"), encoding="utf-8")
    return parities


def _written(name: str, tower: graph.ServedTower, spec: TowerSpec, folder: Path, say: Say) -> verify.Encoder:
    """Writes one format; returns the file as an encoder."""
    path = folder / _FILES[name]
    begin = time.monotonic()
    if name == "torchscript":
        graph.write_torchscript(tower.eval(), spec, path)
        encoder = verify.torchscript_encoder(path)
    else:
        graph.write_onnx(tower.eval(), spec, path)
        level = defaults.FP16_GRAPH_LEVEL if name == "onnx-fp16" else 0
        encoder = verify.onnx_encoder(path, level, tower.inputs)
    say(f"wrote {path.name}: {path.stat().st_size / 1e6:.0f} MB in {time.monotonic() - begin:.0f} s")
    return encoder


def describe(folder: Path) -> dict[str, dict[str, str | int]]:
    """The formats of the files in `folder` that a server may load, as ModelSpec.artifacts."""
    found: dict[str, dict[str, str | int]] = {}
    for path in sorted(folder.glob("*.onnx")):
        model = onnx.load(str(path), load_external_data=False)
        (opset,) = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
        triton = graph.ONNX_OLDEST_TRITON
        found[path.name] = {"opset": opset, "ir_version": model.ir_version, "oldest_triton": triton}
    if (folder / defaults.TORCHSCRIPT_FILE).exists():
        version = str(torch.__version__).partition("+")[0]
        triton = graph.TORCHSCRIPT_OLDEST_TRITON.get(version.rpartition(".")[0], "unknown")
        found[defaults.TORCHSCRIPT_FILE] = {"torch": version, "oldest_triton": triton}
    return found


def write_int8(folder: Path, photos: Proof, say: Say, *, required: bool) -> list[verify.Int8Parity]:
    """Quantizes the fp32 graph, and deletes the result if it is too far from fp32 on real photos.

    Deletes it also if the model has nothing to quantize. Raises ParityError in the first case and ExportError
    in the second if int8 is `required`.
    """
    path = folder / defaults.ONNX_INT8_FILE
    begin = time.monotonic()
    graph.write_int8(folder / defaults.ONNX_FP32_FILE, path)
    if not graph.has_int8_products(path):
        path.unlink()
        text = "int8 quantizes matrix products, and this model has none, as convolutional networks do not"
        if required:
            raise ExportError(f"{text}. Nothing was published. Choose auto, bf16 or fp32")
        say(f"{text}: it is not published; the other formats are")
        return []
    say(f"wrote {path.name}: {path.stat().st_size / 1e6:.0f} MB in {time.monotonic() - begin:.0f} s")
    results = verify.compare_int8(OnnxEncoder(path, available_cores()).embed, photos, say)
    if all(result.ok for result in results):
        return results
    if required:
        raise ParityError(
            f"the cosine of int8 to fp32 is below {results[0].bound}, and the encoder's precision is int8. "
            "Nothing was published. Choose auto, bf16 or fp32"
        )
    path.unlink()
    say("int8 is too far from fp32 and is not published; the other formats are")
    return results
