"""Pixels go through the same retry engine as photos, to an encoder that is a function in this process."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image
from tritonclient.grpc import model_config_pb2, service_pb2

from clip_client import ClipClient, PhotoResult, ServerMismatch, ServerUnavailable
from clip_preprocess import PIXELS_VERSION, PreprocessSettings

_SIDES = (8, 8)
_UNIT = (0.6, 0.8)


class Failed(grpc.RpcError):  # type: ignore[misc]
    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__()
        self.code, self.details = lambda: code, lambda: details


FULL = Failed(grpc.StatusCode.UNAVAILABLE, "Exceeds maximum queue size")
INVALID = Failed(grpc.StatusCode.INVALID_ARGUMENT, "unexpected shape for input")


class Server:
    """A Transport. `answer` gets the valid rows of each request, and returns its vectors or raises."""

    def __init__(self, answer: Callable[[int], Any], steps: tuple[str, ...] = ("pre", "encoder")) -> None:
        self._answer, self._steps = answer, steps
        self.valid: list[list[int]] = []

    def config(self, model: str, timeout_s: float) -> Any:
        del timeout_s
        return service_pb2.ModelConfigResponse(config=_config(model, self._steps))

    def infer(self, request: bytes, timeout_s: float) -> Any:
        del timeout_s
        message = service_pb2.ModelInferRequest.FromString(request)
        pixels, valid = message.raw_input_contents
        assert len(pixels) == len(valid) * 8 * 8 * 3
        self.valid.append(list(valid))
        rows = np.tile(np.array(self._answer(len(self.valid)), np.float32), (len(valid), 1))
        output = {"name": "embedding", "datatype": "FP32", "shape": rows.shape}
        return service_pb2.ModelInferResponse(outputs=[output], raw_output_contents=[rows.tobytes()])

    def statistics(self, model: str, timeout_s: float) -> Any:
        raise Failed(grpc.StatusCode.UNIMPLEMENTED, f"{model} {timeout_s}")

    def ready(self, timeout_s: float) -> Any:
        raise Failed(grpc.StatusCode.UNIMPLEMENTED, f"{timeout_s}")

    def close(self) -> None:
        """Nothing is open."""


def _config(model: str, steps: tuple[str, ...]) -> Any:
    kinds = {"bytes": "TYPE_STRING", "pixels": "TYPE_UINT8", "valid": "TYPE_BOOL", "vector": "TYPE_FP32"}
    image = {"name": "image", "data_type": kinds["bytes"], "dims": [1]}
    error = {"name": "error", "data_type": kinds["bytes"], "dims": [1]}
    vector = {"name": "embedding", "data_type": kinds["vector"], "dims": [2]}
    if model == "clip_image":
        return model_config_pb2.ModelConfig(
            name=model,
            max_batch_size=4,
            input=[image],
            output=[vector, error],
            ensemble_scheduling={"step": [{"model_name": name} for name in steps]},
        )
    if model == "encoder":
        pixels = {"name": "pixels", "data_type": kinds["pixels"], "dims": [*_SIDES, 3]}
        valid = {"name": "valid", "data_type": kinds["valid"], "dims": [1]}
        return model_config_pb2.ModelConfig(
            name=model, max_batch_size=4, input=[pixels, valid], output=[vector]
        )
    parameters = {**PreprocessSettings(_SIDES).to_parameters(), "pixels_version": str(PIXELS_VERSION)}
    return model_config_pb2.ModelConfig(
        name=model, parameters={key: {"string_value": value} for key, value in parameters.items()}
    )


def photo(shade: int) -> bytes:
    data = io.BytesIO()
    Image.linear_gradient("L").resize((20, 10 + shade)).save(data, "PNG")
    return data.getvalue()


def embed(server: Server, photos: list[bytes], **options: Any) -> list[PhotoResult]:
    with ClipClient(transport=server, decode="client", **options) as client:
        return client.embed_photos(photos)


def test_bad_photos_are_not_sent_and_keep_their_place() -> None:
    server = Server(lambda _: _UNIT)
    results = embed(server, [b"", photo(1), b"no photo", photo(2)])
    assert [each.error and each.error.code for each in results] == ["empty", None, "unsupported_format", None]
    assert [each.height for each in results] == [None, 11, None, 12]
    assert server.valid == [[1, 1]]


def test_nothing_is_sent_if_every_photo_is_bad() -> None:
    server = Server(lambda _: _UNIT)
    assert all(each.error for each in embed(server, [b"", b"no photo"]))
    assert server.valid == []


def test_an_encoder_that_sheds_load_is_tried_again() -> None:
    def answer(number: int) -> Any:
        if number < 3:
            raise FULL
        return _UNIT

    (result,) = embed(Server(answer), [photo(1)])
    assert result.error is None
    assert result.width == 20


def test_load_shed_until_the_deadline_is_an_error_of_the_server() -> None:
    def answer(_: int) -> Any:
        raise FULL

    with pytest.raises(ServerUnavailable, match="too busy"):
        embed(Server(answer), [photo(1)], deadline_s=0.5)


def test_rejected_pixels_are_sent_alone_and_then_blamed() -> None:
    def answer(_: int) -> Any:
        raise INVALID

    server = Server(answer)
    (result,) = embed(server, [photo(1)])
    assert result.error is not None
    assert (result.error.code, result.width, result.notices) == ("request_failed", 20, ())
    assert server.valid[-1] == [1, 0, 0, 0]  # a batch of its own


def test_a_vector_of_another_norm_is_an_error() -> None:
    (result,) = embed(Server(lambda _: (3.0, 4.0)), [photo(1)])
    assert result.error is not None
    assert result.error.code == "bad_embedding"


def test_an_ensemble_of_other_steps_is_refused() -> None:
    with pytest.raises(ServerMismatch, match=r'does not consist of.*decode="server"'):
        embed(Server(lambda _: _UNIT, ("pre", "middle", "encoder")), [photo(1)])
