"""An exported encoder on the CPU, in onnxruntime or OpenVINO; independent of Triton."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from clip_serving.errors import ConfigurationError


class Encoder(Protocol):
    """An exported graph: pixels or tokens, and a validity mask, to L2-normalized float32 rows."""

    def embed(self, items: npt.NDArray[Any], valid: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
        """uint8 [N,H,W,3] or int32 [N,L], and bool [N,1], to float32 [N,D]; rows not valid are NaN."""


class OnnxEncoder:
    """A graph in onnxruntime, computed in the precision that it was written in."""

    def __init__(self, path: Path, threads: int) -> None:
        """Raises ConfigurationError if `path` is missing or onnxruntime cannot load it."""
        _require(path)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Spinning threads would take cores from preprocess.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors share no public base class
            raise ConfigurationError(f"onnxruntime cannot load {path}: {error}") from error
        self._input, self._valid = (each.name for each in self._session.get_inputs())

    def embed(self, items: npt.NDArray[Any], valid: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
        (embedding,) = self._session.run(["embedding"], {self._input: items, self._valid: valid})
        rows: npt.NDArray[np.float32] = embedding
        return rows


class OpenVinoEncoder:
    """A float32 graph in OpenVINO, computed in `precision` if this CPU supports it.

    The attribute `precision` is the precision that OpenVINO really uses: without BF16 instructions it
    accepts the hint for bf16 and computes in float32.
    """

    def __init__(self, path: Path, threads: int, precision: Literal["fp32", "bf16"]) -> None:
        """Raises ConfigurationError if OpenVINO is not installed or cannot load `path`."""
        _require(path)
        try:
            import openvino
        except ImportError as error:
            raise ConfigurationError(
                "openvino is not installed. In a clone of clip-triton: pip install './serving[cpu]'"
            ) from error
        options: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision],
            # Each instance is a process: if pinned, all of them would share the first cores.
            "ENABLE_CPU_PINNING": False,
        }
        try:
            compiled = openvino.Core().compile_model(str(path), "CPU", options)
            self._request = compiled.create_infer_request()
            hint: Any = compiled.get_property("INFERENCE_PRECISION_HINT")
        except RuntimeError as error:
            raise ConfigurationError(f"OpenVINO cannot load {path}: {error}") from error
        name: str = hint.get_type_name()
        self.precision = {"f32": "fp32"}.get(name, name)

    def embed(self, items: npt.NDArray[Any], valid: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
        rows: npt.NDArray[np.float32] = self._request.infer({"pixels": items, "valid": valid})["embedding"]
        # In bf16 the norm is rounded to three digits. Dividing also copies: `rows` is OpenVINO's memory.
        normal: npt.NDArray[np.float32] = rows / np.maximum(
            np.linalg.norm(rows, axis=1, keepdims=True), 1e-12
        )
        return normal


def _require(path: Path) -> None:
    if not path.is_file():
        raise ConfigurationError(f"{path} is missing: run clip-export for this repository")
