"""Triton's Python-backend model `clip_image_encoder`: the CPU variant of the encoder."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clip_preprocess.settings import one_of
from clip_serving import defaults
from clip_serving.encoder.choice import choose
from clip_serving.errors import ConfigurationError
from clip_serving.server.log import announcement
from clip_serving.triton_models.backlog import Backlog
from clip_serving.triton_models.inputs import embed_requests
from clip_serving.triton_models.parameters import ensemble_of, parameters_of


class TritonPythonModel:
    """Inputs `pixels` UINT8 [N,H,W,3], `valid` BOOL [N,1]; output `embedding` FP32 [N,D]."""

    def initialize(self, args: dict[str, str]) -> None:
        config = json.loads(args["model_config"])
        parameters = parameters_of(config)
        self._dimension = int(config["output"][0]["dims"][0])
        version = Path(args["model_repository"]) / args["model_version"]
        try:
            precision = one_of(defaults.EncoderPrecision, parameters["precision"])
        except ValueError as error:
            raise ConfigurationError(f"the parameter precision of the model's config: {error}") from error
        chosen = choose(version, precision, int(parameters["threads"]))
        self._encoder = chosen.encoder
        ensemble = ensemble_of(args)
        self._backlog = Backlog.of_this_server(ensemble)
        self._backlog.add_encoder()
        # Triton's own logger writes later, but the embedded server reads this as soon as the model is ready.
        named = ensemble if ensemble != defaults.ENSEMBLE else ""
        print(announcement(str(chosen), named), file=sys.stderr, flush=True)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Runs the requests that Triton batched as one batch."""
        with self._backlog.embedding():
            return embed_requests(requests, "pixels", self._embed)

    def _embed(self, pixels: npt.NDArray[np.uint8], valid: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
        """Costs nothing for rows that are not valid: a batch of one photo may be filled with empty ones."""
        kept = valid[:, 0]
        if kept.all():
            return self._encoder.embed(pixels, valid)
        rows = np.full((len(pixels), self._dimension), np.nan, np.float32)
        if kept.any():
            rows[kept] = self._encoder.embed(np.ascontiguousarray(pixels[kept]), valid[kept])
        return rows
