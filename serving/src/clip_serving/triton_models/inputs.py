"""Reads the inputs of requests one by one, so that a malformed or cancelled request fails alone.

Triton's C++ side rejects some malformed requests itself, and the whole batch with them; clients have to send
the others again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import triton_python_backend_utils as pb_utils

Embed = Callable[[npt.NDArray[Any], npt.NDArray[np.bool_]], npt.NDArray[np.float32]]


class Refused:
    """A request without usable inputs, and the response that says why."""

    def __init__(self, text: str, code: Any) -> None:
        self.response = pb_utils.InferenceResponse([], pb_utils.TritonError(text, code))


def read_inputs(request: Any, *names: str) -> list[npt.NDArray[Any]] | Refused:
    """The arrays of the inputs `names`, all with the same number of rows."""
    if request.is_cancelled():
        return Refused("the request was cancelled", pb_utils.TritonError.CANCELLED)
    try:
        arrays = [pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in names]
    except Exception as error:  # whatever it is, the other requests of the batch are served
        return Refused(f"malformed inputs: {error}", pb_utils.TritonError.INVALID_ARG)
    if len({len(array) for array in arrays}) != 1:
        return Refused("the inputs differ in their number of rows", pb_utils.TritonError.INVALID_ARG)
    return arrays


def embed_requests(requests: Sequence[Any], entry: str, embed: Embed) -> list[Any]:
    """Runs an encoder on the requests that Triton batched, as one batch; returns a response for each.

    `embed` takes the rows of the input `entry` and of `valid`, and returns their embeddings.
    """
    read = [read_inputs(request, entry, "valid") for request in requests]
    batches = [inputs for inputs in read if not isinstance(inputs, Refused)]
    if not batches:
        return [each.response for each in read if isinstance(each, Refused)]
    items, valid = (_joined([batch[index] for batch in batches]) for index in (0, 1))
    ends = np.cumsum([len(batch[1]) for batch in batches])[:-1]
    parts = iter(np.split(embed(items, valid), ends))
    return [each.response if isinstance(each, Refused) else _response(next(parts)) for each in read]


def _joined(arrays: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _response(rows: npt.NDArray[np.float32]) -> Any:
    return pb_utils.InferenceResponse([pb_utils.Tensor("embedding", np.ascontiguousarray(rows))])
