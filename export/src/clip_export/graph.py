"""The module that is exported, and its three forms on disk."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn

from clip_export.errors import GraphError
from clip_serving import defaults
from clip_serving.repository.spec import ModelSpec, TextSpec, TowerSpec

OPSET = 18
_EXPORTED_OUTPUT = "normalized_rows"
MAX_IR_VERSION = 10
"""The newest that Triton 24.10's onnxruntime backend reads; newer onnx packages write a higher one."""
ONNX_OLDEST_TRITON = "24.10"
TORCHSCRIPT_OLDEST_TRITON = {"2.14": "26.05"}
"""By torch's release, the Triton whose PyTorch backend was seen to load what it writes."""


class ServedTower(nn.Module, ABC):
    """A tower with everything around it that a server would otherwise do: its normalization and its mask.

    `items` and `valid` [N,1] to L2-normalized float32 [N,D]; a row is NaN if it is not valid.
    """

    inputs: tuple[str, str]
    """The graph's names of forward()'s arguments."""

    @abstractmethod
    def example(self, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Arguments of forward() to trace it with."""


class ServedImageTower(ServedTower):
    """uint8 pixels [N,H,W,3] and valid [N,1] to L2-normalized float32 [N,D]; NaN if not valid.

    Scale, mean, std and norm are part of the graph, so pixels travel as 1 byte per channel and no caller
    can get them wrong. With `half` the tower itself computes in float16.
    """

    inputs = ("pixels", "valid")

    def __init__(self, visual: nn.Module, spec: ModelSpec, *, half: bool = False) -> None:
        super().__init__()
        self.image_size = spec.image_size
        self.visual = visual.half() if half else visual
        self.dtype = torch.float16 if half else torch.float32
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("nan", torch.tensor(float("nan")), persistent=False)

    def forward(self, pixels: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        # The cast comes first: TensorRT accepts a uint8 input only where a Cast is all that reads it.
        scaled = pixels.to(torch.float32).permute(0, 3, 1, 2) / 255.0
        features = self.visual(((scaled - self.mean) / self.std).to(self.dtype)).to(torch.float32)
        return _masked(features, valid, self.nan)

    def example(self, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
        pixels = torch.randint(0, 256, (batch, *self.image_size, 3), dtype=torch.uint8)
        return pixels, torch.ones(batch, 1, dtype=torch.bool)


class ServedTextTower(ServedTower):
    """int32 tokens [N,L] and valid [N,1] to L2-normalized float32 [N,D]; NaN if not valid.

    `model` is an open_clip model; what encode_text() does not use is not exported.
    """

    inputs = ("tokens", "valid")

    def __init__(self, model: nn.Module, spec: TextSpec, *, half: bool = False) -> None:
        super().__init__()
        self.context_length = spec.context_length
        self.model = model.half() if half else model
        self.register_buffer("nan", torch.tensor(float("nan")), persistent=False)

    def forward(self, tokens: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        features = self.model.encode_text(tokens.to(torch.int64)).to(torch.float32)
        return _masked(features, valid, self.nan)

    def example(self, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
        tokens = torch.arange(1, 1 + self.context_length, dtype=torch.int32).repeat(batch, 1)
        return tokens, torch.ones(batch, 1, dtype=torch.bool)


def _masked(features: torch.Tensor, valid: torch.Tensor, nan: torch.Tensor) -> torch.Tensor:
    """L2-normalized rows; NaN where not valid."""
    return torch.where(valid, features / features.norm(dim=-1, keepdim=True).clamp_min(1e-12), nan)


def write_onnx(tower: ServedTower, spec: TowerSpec, path: Path) -> None:
    """Writes the graph with a dynamic batch size; raises GraphError, which says what cannot be expressed."""
    batch = torch.export.Dim("batch", min=1, max=defaults.MAX_BATCH_SIZE)
    try:
        with _quiet():
            torch.onnx.export(
                tower,
                tower.example(2),
                str(path),
                input_names=list(tower.inputs),
                output_names=[_EXPORTED_OUTPUT],
                dynamic_shapes={name: {0: batch} for name in tower.inputs},
                opset_version=OPSET,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # the exporter's errors share no base class
        raise GraphError(_sentence(spec, "ONNX", error)) from error
    model = onnx.load(str(path))
    _rename(model.graph, {"embedding": "embedding_inside", _EXPORTED_OUTPUT: "embedding"})
    _read_only_the_cast(model.graph, tower.inputs[0])
    model.ir_version = min(model.ir_version, MAX_IR_VERSION)
    onnx.save(model, str(path))


def _read_only_the_cast(graph: onnx.GraphProto, entry: str) -> None:
    """Gives every node that reads the input `entry`, such as Shape, the output of its Cast instead."""
    nodes = list(graph.node)
    cast = next(node for node in nodes if node.op_type == "Cast" and node.input[0] == entry)
    nodes.remove(cast)
    for node in nodes:
        for index, name in enumerate(node.input):
            if name == entry:
                node.input[index] = cast.output[0]
    del graph.node[:]
    graph.node.extend([cast, *nodes])


def _rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Renames tensors. A text tower has one inside that the exporter calls `embedding`, as its output."""
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for value in (*graph.output, *graph.value_info, *graph.initializer):
        value.name = names.get(value.name, value.name)


def write_torchscript(tower: ServedTower, spec: TowerSpec, path: Path) -> None:
    """Traces the module; the rows are the same at any batch size."""
    try:
        with _quiet(), torch.inference_mode():
            traced: Any = torch.jit.trace(tower, tower.example(2), check_trace=False)
            traced.save(str(path))
    except Exception as error:
        raise GraphError(_sentence(spec, "TorchScript", error)) from error


def write_int8(fp32: Path, path: Path) -> None:
    """Quantizes the weights of `fp32`'s matrix products; activations are quantized at run time.

    Weights use seven of their eight bits: a CPU without VNNI adds pairs of products in 16 bits, which
    eight-bit weights overflow (a cosine of 0.98 instead of 0.9997, at the same speed).
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _quiet():
        quantize_dynamic(
            fp32,
            path,
            op_types_to_quantize=["MatMul", "Gemm"],
            weight_type=QuantType.QInt8,
            reduce_range=True,
            per_channel=True,
        )


def has_int8_products(path: Path) -> bool:
    """Whether write_int8() found something to quantize."""
    nodes = onnx.load(str(path), load_external_data=False).graph.node
    return any(node.op_type == "MatMulInteger" for node in nodes)


def _sentence(spec: TowerSpec, form: str, error: Exception) -> str:
    cause = (str(error).strip().splitlines() or [type(error).__name__])[0]
    tower = "text" if isinstance(spec, TextSpec) else "image"
    return f"the {tower} tower of {spec.model} cannot be written as {form}: {cause}"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences the exporters' output; their results are verified afterwards.

    Also turns torch's fast path off, because its fused attention has no ONNX form.
    """
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
        torch.backends.mha.set_fastpath_enabled(fast_path)
