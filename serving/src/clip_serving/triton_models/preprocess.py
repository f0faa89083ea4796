"""Triton's Python-backend model `clip_image_preprocess`: encoded photos in, the encoder's pixels out.

Only tensors, metrics and this process's health are handled here; clip_preprocess handles the photos.
"""

from __future__ import annotations

import ctypes
import faulthandler
import json
import os
import sys
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import triton_python_backend_utils as pb_utils

from clip_preprocess import PIXELS_VERSION, Outcome, Preprocessor, PreprocessSettings
from clip_serving import defaults
from clip_serving.errors import ConfigurationError
from clip_serving.triton_models.backlog import Backlog
from clip_serving.triton_models.inputs import Refused, read_inputs
from clip_serving.triton_models.metrics import PhotoMetrics
from clip_serving.triton_models.parameters import ensemble_of, parameters_of

_TRIM_EVERY = 128
"""Photos; trimming takes some milliseconds."""
_libc = ctypes.CDLL(None)


class TritonPythonModel:
    """Input `image` BYTES [N,1].

    Outputs `pixels` UINT8 [N,H,W,3], `valid` BOOL [N,1], `error` BYTES [N,1] ("" if there is none),
    `notice` BYTES [N,1]: one line per notice, `format` BYTES [N,1] ("" if unknown), `dimensions` INT32 [N,3]:
    width, height and decode scale, `stage_seconds` FP64 [N,2]: the times of decode and preprocess.
    """

    def initialize(self, args: dict[str, str]) -> None:
        parameters = parameters_of(json.loads(args["model_config"]))
        os.nice(int(parameters["niceness"]))
        _require_pixels(parameters.get("pixels_version"))
        self._settings = PreprocessSettings.from_parameters(parameters)
        self._preprocessor = Preprocessor(
            self._settings, threads=int(parameters["threads"]), on_photo=self._guard
        )
        self._backlog = Backlog.of_this_server(ensemble_of(args))
        self._metrics = PhotoMetrics(ensemble_of(args))
        self._since_trim = 0
        self._renewal: threading.Timer | None = None

    def execute(self, requests: list[Any]) -> list[Any]:
        """Decodes all requests' photos as one batch; a bad photo affects only its own row."""
        read = [read_inputs(request, "image") for request in requests]
        images = [photo for each in read if not isinstance(each, Refused) for photo in each[0].reshape(-1)]
        height, width = self._settings.image_size
        pixels = np.empty((len(images), height, width, 3), np.uint8)
        outcomes = self._preprocessor.run(images, pixels)
        faulthandler.cancel_dump_traceback_later()
        self._metrics.record(images, outcomes)
        self._return_memory(len(images))
        responses, start = [], 0
        for each in read:
            if isinstance(each, Refused):
                responses.append(each.response)
                continue
            rows = slice(start, start + each[0].size)
            responses.append(_response(pixels[rows], outcomes[rows]))
            start = rows.stop
        self._backlog.hand_on(sum(outcome.valid for outcome in outcomes))
        self._renew_if_stuck()
        return responses

    def finalize(self) -> None:
        """Called before the process exits, which a stuck thread must not prevent."""
        if self._preprocessor.stuck:
            os._exit(0)
        self._preprocessor.close()

    def _return_memory(self, photos: int) -> None:
        """Mixed sizes fragment the heap; trim it periodically."""
        self._since_trim += photos
        if self._since_trim >= _TRIM_EVERY:
            self._since_trim = 0
            _libc.malloc_trim(0)

    def _guard(self) -> None:
        """Ends this process if a decoder never releases the GIL, because then no deadline can expire."""
        faulthandler.dump_traceback_later(3 * self._settings.limits.decode_timeout_s, exit=True)

    def _renew_if_stuck(self) -> None:
        """Exits, so that the server is restarted, when stuck threads take too many cores from the others."""
        if self._renewal is None and self._preprocessor.stuck >= defaults.MAX_STUCK_DECODES:
            text = f"ending this process: photos stuck in their decoders: {self._preprocessor.stuck}"
            print(text, file=sys.stderr, flush=True)
            # Delayed until the responses of this batch are sent.
            self._renewal = threading.Timer(1.0, os._exit, (1,))
            self._renewal.daemon = True
            self._renewal.start()


def _require_pixels(version: str | None) -> None:
    """Clients that decode photos themselves rely on the config's version. Release 0.1 did not state one."""
    if version not in (None, str(PIXELS_VERSION)):
        raise ConfigurationError(
            f"the model's config states pixels_version {version}, this release computes {PIXELS_VERSION}. "
            "Render it again with: clip-render --repository DIR. New vectors differ slightly from old ones"
        )


def _response(pixels: npt.NDArray[np.uint8], outcomes: Sequence[Outcome]) -> Any:
    valid = np.array([[outcome.valid] for outcome in outcomes], np.bool_)
    errors = [outcome.error.wire() if outcome.error else "" for outcome in outcomes]
    notices = ["\n".join(notice.wire() for notice in outcome.notices) for outcome in outcomes]
    dimensions = np.array([(each.width, each.height, each.scale) for each in outcomes], np.int32)
    seconds = np.array([[outcome.decode_s, outcome.preprocess_s] for outcome in outcomes], np.float64)
    return pb_utils.InferenceResponse(
        [
            pb_utils.Tensor("pixels", pixels),
            pb_utils.Tensor("valid", valid),
            pb_utils.Tensor("error", _texts(errors)),
            pb_utils.Tensor("notice", _texts(notices)),
            pb_utils.Tensor("format", _texts([outcome.format for outcome in outcomes])),
            pb_utils.Tensor("dimensions", dimensions),
            pb_utils.Tensor("stage_seconds", seconds),
        ]
    )


def _texts(texts: Sequence[str]) -> npt.NDArray[np.object_]:
    """A BYTES tensor [N,1]."""
    return np.array([[text.encode()] for text in texts], np.object_)
