"""Triton's Python-backend model `clip_image_encoder`: the CPU variant of the encoder."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import triton_python_backend_utils as pb_utils

from clip_preprocess.settings import one_of
from clip_serving import defaults
from clip_serving.encoder.choice import choose
from clip_serving.errors import ConfigurationError
from clip_serving.server.log import announcement
from clip_serving.triton_models.parameters import parameters_of


class TritonPythonModel:
    """Inputs `pixels` UINT8 [N,H,W,3], `valid` BOOL [N,1]; output `embedding` FP32 [N,D]."""

    def initialize(self, args: dict[str, str]) -> None:
        parameters = parameters_of(json.loads(args["model_config"]))
        version = Path(args["model_repository"]) / args["model_version"]
        try:
            precision = one_of(defaults.EncoderPrecision, parameters["precision"])
        except ValueError as error:
            raise ConfigurationError(f"the parameter precision of the model's config: {error}") from error
        chosen = choose(version, precision, int(parameters["threads"]))
        self._encoder = chosen.encoder
        # Triton's own logger writes later, but the embedded server reads this as soon as the model is ready.
        print(announcement(str(chosen)), file=sys.stderr, flush=True)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Runs the requests that Triton batched as one batch."""
        pixels = [_input(request, "pixels") for request in requests]
        valid = np.concatenate([_input(request, "valid") for request in requests])
        batch = pixels[0] if len(pixels) == 1 else np.concatenate(pixels)
        embeddings = self._encoder.embed(batch, valid)
        ends = np.cumsum([len(part) for part in pixels])[:-1]
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor("embedding", np.ascontiguousarray(rows))])
            for rows in np.split(embeddings, ends)
        ]


def _input(request: Any, name: str) -> npt.NDArray[Any]:
    array: npt.NDArray[Any] = pb_utils.get_input_tensor_by_name(request, name).as_numpy()
    return array
