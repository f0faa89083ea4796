"""The graphs on disk: what TensorRT and Triton's onnxruntime backend need of them, for each kind of tower."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
import open_clip
import pytest

from clip_export import graph
from clip_export.load import load
from clip_export.text import load_text
from testing import towers

VIT: dict[str, Any] = {"layers": 1, "width": 64, "head_width": 32, "patch_size": 32}
TIMM: dict[str, Any] = {"timm_model_pretrained": False, "timm_proj": "linear"}
VISION: dict[str, dict[str, Any]] = {
    "vit": VIT,
    "timm-vit": {**TIMM, "timm_model_name": "test_vit", "timm_pool": ""},
    "vit-average": {**VIT, "pool_type": "avg"},
    "resnet": {"layers": [1, 1, 1, 1], "width": 8, "patch_size": None},
    "timm-convnext": {**TIMM, "timm_model_name": "test_convnext", "timm_pool": "avg"},
}
FAST = ("vit", "timm-vit")
TOWERS = [pytest.param(name, marks=[] if name in FAST else [pytest.mark.slow]) for name in VISION]
FORMATS = ("onnx-fp32", "onnx-fp16", "onnx-int8")


@pytest.fixture(scope="module", params=TOWERS)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The three ONNX files of a small tower."""
    name, vision = request.param, VISION[request.param]
    folder = tmp_path_factory.mktemp(name)
    text = {"context_length": 8, "vocab_size": 64, "layers": 1, "width": 32, "heads": 2}
    config = {"embed_dim": 16, "vision_cfg": {"image_size": 64, **vision}, "text_cfg": text}
    (folder / f"graph-{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)
    loaded = load(f"graph-{name}", "none", seed=1)
    paths = {form: folder / f"{form}.onnx" for form in FORMATS}
    for form, half in (("onnx-fp32", False), ("onnx-fp16", True)):
        tower = graph.ServedImageTower(copy.deepcopy(loaded.model.visual), loaded.spec, half=half).eval()
        graph.write_onnx(tower, loaded.spec, paths[form])
    graph.write_int8(paths["onnx-fp32"], paths["onnx-int8"])
    return paths


@pytest.mark.parametrize("form", FORMATS)
def test_a_cast_alone_reads_the_pixels(exported: dict[str, Path], form: str) -> None:
    """TensorRT rejects a UINT8 input that anything else reads."""
    model = onnx.load(str(exported[form]))
    onnx.checker.check_model(model, full_check=True)
    (cast,) = [node for node in model.graph.node if "pixels" in node.input]
    assert cast.op_type == "Cast"
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    types = {value.name: value.type.tensor_type.elem_type for value in inferred.value_info}
    made = {name: node for node in model.graph.node for name in node.output}
    assert made.keys() <= types.keys() | {output.name for output in model.graph.output}, "all types are known"
    unsigned = {name for name, kind in types.items() if kind == onnx.TensorProto.UINT8}
    # int8 quantizes activations while it runs; it is served by onnxruntime on a CPU only.
    quantized = {name for name in unsigned if made[name].op_type == "DynamicQuantizeLinear"}
    assert unsigned == quantized
    assert not quantized or form == "onnx-int8"


@pytest.mark.parametrize(
    ("form", "level"),
    [
        ("onnx-fp32", ort.GraphOptimizationLevel.ORT_ENABLE_BASIC),
        ("onnx-fp16", ort.GraphOptimizationLevel.ORT_ENABLE_BASIC),
        ("onnx-fp16", ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED),
    ],
)
def test_onnxruntimes_own_changes_leave_the_cast_first(
    exported: dict[str, Path], tmp_path: Path, form: str, level: ort.GraphOptimizationLevel
) -> None:
    """TensorRT gets what onnxruntime makes of the file, and its optimizer moves a Transpose."""
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3  # an optimized file is for this machine only, which is said
    ort.InferenceSession(str(exported[form]), options, providers=["CPUExecutionProvider"])
    readers = [
        node for node in onnx.load(str(tmp_path / "optimized.onnx")).graph.node if "pixels" in node.input
    ]
    assert [node.op_type for node in readers] == ["Cast"]


@pytest.mark.parametrize("half", [False, True], ids=["onnx-fp32", "onnx-fp16"])
def test_a_cast_alone_reads_the_tokens(tmp_path: Path, half: bool) -> None:
    towers.register()
    text = load_text(load(towers.SMALL, "none", seed=1))
    graph.write_onnx(
        graph.ServedTextTower(text.module(), text.spec, half=half).eval(), text.spec, tmp_path / "text"
    )
    model = onnx.load(str(tmp_path / "text"))
    onnx.checker.check_model(model, full_check=True)
    (cast,) = [node for node in model.graph.node if "tokens" in node.input]
    assert cast.op_type == "Cast"


@pytest.mark.parametrize("form", FORMATS)
def test_triton_24_10_reads_the_file(exported: dict[str, Path], form: str) -> None:
    model = onnx.load(str(exported[form]), load_external_data=False)
    (opset,) = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    assert (opset, model.ir_version <= graph.MAX_IR_VERSION) == (graph.OPSET, True)
    assert [entry.name for entry in model.graph.input] == ["pixels", "valid"]
    assert all(entry.type.tensor_type.shape.dim[0].dim_param for entry in model.graph.input)
