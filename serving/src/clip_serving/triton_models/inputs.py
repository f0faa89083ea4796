"""Reads the inputs of requests one by one, so that a malformed or cancelled request fails alone.

Triton's C++ side rejects some malformed requests itself, and the whole batch with them; clients have to send
the others again.
"""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
import triton_python_backend_utils as pb_utils


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
