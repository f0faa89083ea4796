"""`python -m clip_export.run_onnx MODEL LEVEL IN.npz OUT.npy`: one run of a graph in its own process."""

from __future__ import annotations

import sys

import numpy as np
import onnxruntime as ort

_LEVELS = {
    "0": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    "1": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
}
"""By the level of Triton's `optimization { graph { level } }`."""


def main(model: str, level: str, given: str, made: str) -> None:
    options = ort.SessionOptions()
    options.graph_optimization_level = _LEVELS[level]
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    with np.load(given) as arrays:
        (rows,) = session.run(["embedding"], dict(arrays))
    np.save(made, rows)


if __name__ == "__main__":
    main(*sys.argv[1:])
