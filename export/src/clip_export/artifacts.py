"""Writes the chosen formats into a staging folder, and verifies each artifact."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from pathlib import Path

import onnx
import torch

from clip_export import graph, verify
from clip_export.errors import ParityError
from clip_export.load import LoadedModel
from clip_serving import defaults
from clip_serving.encoder.engines import OnnxEncoder
from clip_serving.encoder.proof import Proof
from clip_serving.repository.stage import available_cores

Say = Callable[[str], None]
_FILES = {
    "onnx-fp32": defaults.ONNX_FP32_FILE,
    "onnx-fp16": defaults.ONNX_FP16_FILE,
    "torchscript": defaults.TORCHSCRIPT_FILE,
}


def write_and_verify(name: str, loaded: LoadedModel, folder: Path, say: Say) -> list[verify.Parity]:
    """Writes one format in open_clip's own precision or in fp16; raises ParityError past its tolerance."""
    half = name == "onnx-fp16"
    # half() changes a module in place, and the loaded model stays the reference.
    visual = copy.deepcopy(loaded.model.visual) if half else loaded.model.visual
    tower = graph.ServedTower(visual, loaded.spec, half=half).eval()
    path = folder / _FILES[name]
    begin = time.monotonic()
    if name == "torchscript":
        graph.write_torchscript(tower, loaded.spec, path)
        encoder = verify.torchscript_encoder(path)
    else:
        graph.write_onnx(tower, loaded.spec, path)
        encoder = verify.onnx_encoder(path, defaults.FP16_GRAPH_LEVEL if half else 0)
    say(f"wrote {path.name}: {path.stat().st_size / 1e6:.0f} MB in {time.monotonic() - begin:.0f} s")
    tolerance = verify.FP16_TOLERANCE if half else verify.FP32_TOLERANCE
    return verify.verify(name, encoder, loaded, tolerance, say)


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

    Raises ParityError in that case if int8 is `required`.
    """
    path = folder / defaults.ONNX_INT8_FILE
    begin = time.monotonic()
    graph.write_int8(folder / defaults.ONNX_FP32_FILE, path)
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
