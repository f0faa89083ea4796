"""Pixels go through the same retry engine as photos, to an encoder that is a function in this process."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image
from tritonclient.grpc import model_config_pb2, service_pb2
from tritonclient.utils import deserialize_bytes_tensor

from clip_client import ClipClient, ItemError, PhotoResult, ServerBusy, ServerMismatch, ServerUnavailable
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

    def __init__(self, answer: Callable[[int], Any], stated: bool = True) -> None:
        self._answer, self._stated = answer, stated
        self.valid: list[list[int]] = []

    def config(self, model: str, timeout_s: float) -> Any:
        del timeout_s
        return service_pb2.ModelConfigResponse(config=_config(model, self._stated))

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


def _config(model: str, stated: bool) -> Any:
    assert model == "clip_image_encoder"
    settings = {**PreprocessSettings(_SIDES).to_parameters(), "pixels_version": str(PIXELS_VERSION)}
    return model_config_pb2.ModelConfig(
        name=model,
        max_batch_size=4,
        input=[
            {"name": "pixels", "data_type": "TYPE_UINT8", "dims": [*_SIDES, 3]},
            {"name": "valid", "data_type": "TYPE_BOOL", "dims": [1]},
        ],
        output=[{"name": "embedding", "data_type": "TYPE_FP32", "dims": [2]}],
        parameters={"preprocess": {"string_value": json.dumps(settings)}} if stated else {},
    )


class Tier(Server):
    """A Transport to a decode tier: pixels of one value, and "decode:" errors for photos that say so."""

    def __init__(
        self,
        fail: Callable[[int], None] = lambda _: None,
        parameters: Mapping[str, str | None] = MappingProxyType({}),
    ) -> None:
        super().__init__(lambda _: _UNIT)
        self._fail = fail
        settings = {**PreprocessSettings(_SIDES).to_parameters(), "pixels_version": str(PIXELS_VERSION)}
        self._parameters = {key: value for key, value in {**settings, **parameters}.items() if value}
        self.requests = 0

    def config(self, model: str, timeout_s: float) -> Any:
        assert model == "clip_image_preprocess"
        assert timeout_s > 0
        outputs = [
            {"name": "pixels", "data_type": "TYPE_UINT8", "dims": [*_SIDES, 3]},
            *(
                {"name": name, "data_type": "TYPE_STRING", "dims": [1]}
                for name in ("error", "notice", "format")
            ),
            {"name": "dimensions", "data_type": "TYPE_INT32", "dims": [3]},
            {"name": "stage_seconds", "data_type": "TYPE_FP64", "dims": [2]},
        ]
        config = model_config_pb2.ModelConfig(
            name=model,
            max_batch_size=3,
            input=[{"name": "image", "data_type": "TYPE_STRING", "dims": [1]}],
            output=outputs,
            parameters={key: {"string_value": value} for key, value in self._parameters.items()},
        )
        return service_pb2.ModelConfigResponse(config=config)

    def infer(self, request: bytes, timeout_s: float) -> Any:
        assert timeout_s > 0
        self.requests += 1
        self._fail(self.requests)
        message = service_pb2.ModelInferRequest.FromString(request)
        (raw,) = message.raw_input_contents
        photos = deserialize_bytes_tensor(raw)
        count = len(photos)
        texts = [b"corrupt: no photo" if each.startswith(b"bad") else b"" for each in photos]
        arrays: dict[str, Any] = {
            "pixels": np.full((count, *_SIDES, 3), 7, np.uint8),
            "error": texts,
            "notice": [b"" if text else b"odd: a notice" for text in texts],
            "format": [b"PNG"] * count,
            "dimensions": np.tile(np.array([20, 11, 1], np.int32), (count, 1)),
        }
        wanted = [each.name for each in message.outputs]
        assert set(wanted) == set(arrays)
        answer = service_pb2.ModelInferResponse()
        for name in wanted:
            value = arrays[name]
            if isinstance(value, list):
                answer.outputs.add(name=name, datatype="BYTES", shape=[count, 1])
                packed = b"".join(len(text).to_bytes(4, "little") + text for text in value)
                answer.raw_output_contents.append(packed)
            else:
                kind = "UINT8" if value.dtype == np.uint8 else "INT32"
                answer.outputs.add(name=name, datatype=kind, shape=value.shape)
                answer.raw_output_contents.append(value.tobytes())
        return answer


def embed_by_tier(tier: Tier, server: Server, photos: list[bytes], **options: Any) -> list[PhotoResult]:
    with ClipClient(transport=server, decode="decoders:8001", decode_transport=tier, **options) as client:
        assert client.info.max_batch_size == 3
        assert client.info.name == "clip_image"
        return client.embed_photos(photos)


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


def test_a_vector_of_another_dimension_is_an_error() -> None:
    """The server came back with another model while the client was idle."""
    (result,) = embed(Server(lambda _: (0.6, 0.8, 0.0)), [photo(1)])
    assert result.error is not None
    assert result.error.code == "bad_embedding"


def test_an_encoder_that_does_not_state_its_pixels_is_refused() -> None:
    with pytest.raises(ServerMismatch, match=r'does not state its pixels_version.*decode="server"'):
        embed(Server(lambda _: _UNIT, stated=False), [photo(1)])


def test_a_tier_decodes_and_its_bad_photos_are_not_sent_on() -> None:
    server = Server(lambda _: _UNIT)
    results = embed_by_tier(Tier(), server, [b"bad", b"one", b"two"])
    assert [each.error and each.error.code for each in results] == ["corrupt", None, None]
    assert [each.notices and each.notices[0].code for each in results] == [(), "odd", "odd"]
    assert (results[1].width, results[1].height, results[1].decode_scale) == (20, 11, 1)
    assert server.valid == [[1, 1]]


def test_a_tier_that_sheds_load_is_tried_again_and_named_when_it_does_not_stop() -> None:
    def at_first(number: int) -> None:
        if number < 3:
            raise FULL

    tier = Tier(at_first)
    (result,) = embed_by_tier(tier, Server(lambda _: _UNIT), [b"one"])
    assert result.error is None
    assert tier.requests == 3

    def always(_: int) -> None:
        raise FULL

    with pytest.raises(ServerBusy, match="decoders:8001 was too busy"):
        embed_by_tier(Tier(always), Server(lambda _: _UNIT), [b"one"], deadline_s=0.5)


def test_a_photo_that_a_tier_rejects_is_blamed_and_its_neighbors_are_embedded() -> None:
    def reject(number: int) -> None:
        if number <= 5:
            raise INVALID

    server = Server(lambda _: _UNIT)
    results = embed_by_tier(Tier(reject), server, [b"one", b"two", b"three"])
    assert [each.error and each.error.code for each in results] == ["request_failed", "request_failed", None]
    assert server.valid == [[1]]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"quality": "fast"}, "quality is fast, not exact"),
        ({"pixels_version": "99"}, f"pixels_version is 99, not {PIXELS_VERSION}"),
        ({"pixels_version": None}, "pixels_version is not stated"),
        ({"image_width": "9"}, "image_width is 9, not 8"),
    ],
)
def test_a_tier_with_other_pixels_is_refused(parameters: dict[str, str | None], message: str) -> None:
    with pytest.raises(ServerMismatch, match=f"decoders:8001.*{message}.*same repository"):
        embed_by_tier(Tier(parameters=parameters), Server(lambda _: _UNIT), [b"one"])


def test_a_tiers_limits_are_its_own() -> None:
    tier, server = Tier(parameters={"max_bytes": "10"}), Server(lambda _: _UNIT)
    with ClipClient(transport=server, decode="decoders:8001", decode_transport=tier) as client:
        (error,) = client.embed([b"more than 10 bytes"], on_error="return")
    assert isinstance(error, ItemError)
    assert error.code == "too_many_bytes"
    assert tier.requests == 0
