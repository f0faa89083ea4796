"""The image encoder on the CPU, through onnxruntime, with no Triton in sight."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from clip_serving.errors import ConfigurationError


class OnnxEncoder:
    """An exported graph: uint8 pixels and a validity mask to L2-normalised float32 rows."""

    def __init__(self, path: Path, threads: int) -> None:
        """Raises ConfigurationError when `path` is missing or is no graph that onnxruntime loads."""
        if not path.is_file():
            raise ConfigurationError(f"{path} is missing: run clip-export for this repository")
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Spinning threads would take the cores that preprocess needs.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors share no public base class
            raise ConfigurationError(f"onnxruntime cannot load {path}: {error}") from error

    def embed(self, pixels: npt.NDArray[np.uint8], valid: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
        """uint8 [N,H,W,3] and bool [N,1] to float32 [N,D]; rows that are not valid are NaN."""
        (embedding,) = self._session.run(["embedding"], {"pixels": pixels, "valid": valid})
        rows: npt.NDArray[np.float32] = embedding
        return rows
