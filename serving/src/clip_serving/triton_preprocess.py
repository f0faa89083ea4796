"""Triton's Python-backend model `clip_image_preprocess`: encoded photos in, the encoder's pixels out.

Only tensors are handled here; what becomes of a photo is decided in clip_serving.preprocess.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import triton_python_backend_utils as pb_utils

from clip_serving.errors import ItemError
from clip_serving.preprocess import Preprocessor
from clip_serving.settings import PreprocessSettings
from clip_serving.triton_config import parameters_of


class TritonPythonModel:
    """Input `image` BYTES [N,1].

    Outputs `pixels` UINT8 [N,H,W,3], `valid` BOOL [N,1], `error` BYTES [N,1] ("" where all is well).
    """

    def initialize(self, args: dict[str, str]) -> None:
        parameters = parameters_of(json.loads(args["model_config"]))
        self._settings = PreprocessSettings.from_parameters(parameters)
        self._preprocessor = Preprocessor(self._settings, threads=int(parameters["threads"]))

    def execute(self, requests: list[Any]) -> list[Any]:
        """All requests' photos are one batch for the decoder; a bad one costs only its own row."""
        photos = [
            pb_utils.get_input_tensor_by_name(request, "image").as_numpy().reshape(-1) for request in requests
        ]
        height, width = self._settings.image_size
        pixels = np.empty((sum(map(len, photos)), height, width, 3), np.uint8)
        errors = self._preprocessor.run([photo for batch in photos for photo in batch], pixels)
        responses, start = [], 0
        for batch in photos:
            rows = slice(start, start + len(batch))
            responses.append(_response(pixels[rows], errors[rows]))
            start = rows.stop
        return responses


def _response(pixels: npt.NDArray[np.uint8], errors: list[ItemError | None]) -> Any:
    valid = np.array([[error is None] for error in errors], np.bool_)
    texts = [[error.wire().encode() if error else b""] for error in errors]
    return pb_utils.InferenceResponse(
        [
            pb_utils.Tensor("pixels", pixels),
            pb_utils.Tensor("valid", valid),
            pb_utils.Tensor("error", np.array(texts, np.object_)),
        ]
    )
