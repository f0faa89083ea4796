"""`python -m clip_export.run_onnx MODEL IN.npz OUT.npy`: one run of a graph, in a process of its own."""

from __future__ import annotations

import sys

import numpy as np
import onnxruntime as ort


def main(model: str, given: str, made: str) -> None:
    options = ort.SessionOptions()
    # At its default level, onnxruntime 1.32 crashes on a CPU while it loads an fp16 graph.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    with np.load(given) as arrays:
        (rows,) = session.run(["embedding"], dict(arrays))
    np.save(made, rows)


if __name__ == "__main__":
    main(*sys.argv[1:])
