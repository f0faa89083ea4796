"""Triton's Python-backend model `clip_text_encoder`: the CPU variant of the text encoder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from clip_serving import defaults
from clip_serving.encoder.engines import OnnxEncoder
from clip_serving.triton_models.inputs import embed_requests
from clip_serving.triton_models.parameters import parameters_of


class TritonPythonModel:
    """Inputs `tokens` INT32 [N,L], `valid` BOOL [N,1]; output `embedding` FP32 [N,D]."""

    def initialize(self, args: dict[str, str]) -> None:
        parameters = parameters_of(json.loads(args["model_config"]))
        version = Path(args["model_repository"]) / args["model_version"]
        self._encoder = OnnxEncoder(version / defaults.ONNX_FP32_FILE, int(parameters["threads"]))

    def execute(self, requests: list[Any]) -> list[Any]:
        """Runs the requests that Triton batched as one batch."""
        return embed_requests(requests, "tokens", self._encoder.embed)
