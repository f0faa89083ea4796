"""Triton's Python-backend model `clip_text_tokenize`: texts in, the text encoder's tokens out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import triton_python_backend_utils as pb_utils

from clip_preprocess.settings import one_of
from clip_serving import defaults
from clip_serving.text.load import load_tokenizer
from clip_serving.text.tokenizer import BadText, Tokens
from clip_serving.triton_models.inputs import Refused, read_inputs
from clip_serving.triton_models.parameters import parameters_of


class TritonPythonModel:
    """Input `text` BYTES [N,1], UTF-8.

    Outputs `tokens` INT32 [N,L], `valid` BOOL [N,1], `error` BYTES [N,1] and `notice` BYTES [N,1] ("" if
    there is none).
    """

    def initialize(self, args: dict[str, str]) -> None:
        parameters = parameters_of(json.loads(args["model_config"]))
        version = Path(args["model_repository"]) / args["model_version"]
        self._length = int(parameters["context_length"])
        self._max_bytes = int(parameters["max_bytes"])
        zeroed = parameters.get("zeroed_token")
        self._tokenizer = load_tokenizer(
            version,
            self._length,
            one_of(defaults.Clean, parameters["clean"]),
            None if zeroed is None else int(zeroed),
        )

    def execute(self, requests: list[Any]) -> list[Any]:
        """A bad text affects only its own row."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        inputs = read_inputs(request, "text")
        if isinstance(inputs, Refused):
            return inputs.response
        texts = inputs[0].reshape(-1)
        tokens = np.zeros((len(texts), self._length), np.int32)
        errors, notices = [b""] * len(texts), [b""] * len(texts)
        for row, text in enumerate(texts):
            try:
                found = self._tokens(text)
            except BadText as error:
                errors[row] = str(error).encode()
                continue
            tokens[row] = found.ids
            notices[row] = _CUT % self._length if found.is_cut else b""
        return pb_utils.InferenceResponse(
            [
                pb_utils.Tensor("tokens", tokens),
                pb_utils.Tensor("valid", np.array([[not error] for error in errors], np.bool_)),
                pb_utils.Tensor("error", _column(errors)),
                pb_utils.Tensor("notice", _column(notices)),
            ]
        )

    def _tokens(self, text: bytes) -> Tokens:
        if len(text) > self._max_bytes:
            raise BadText(f"too_many_bytes: a text of {len(text)} bytes; at most {self._max_bytes}")
        try:
            decoded = text.decode("utf-8")
        except UnicodeDecodeError as error:
            raise BadText(f"invalid_text: the text is not UTF-8: {error}") from error
        return self._tokenizer(decoded)


_CUT = b"cut_off: the text has more than %d tokens; those that do not fit were ignored"


def _column(values: Sequence[bytes]) -> npt.NDArray[np.object_]:
    return np.array(values, np.object_).reshape(-1, 1)
