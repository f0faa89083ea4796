"""Requests and answers, without a server."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import InferInput, InferRequestedOutput, service_pb2
from tritonclient.grpc import model_config_pb2 as pb
from tritonclient.grpc._utils import _get_inference_request

import clip_client
from clip_client import ItemError, ModelInfo, Notice, ServerMismatch
from clip_client.photos import read_photo
from clip_client.requests import wire

_INFO = ModelInfo("clip_image", "image", "embedding", "error", 4, 64, {})


class Answer:
    """What tritonclient's InferResult gives, for rows made here."""

    def __init__(self, rows: list[list[float]], dimensions: Any = None, **texts: list[str]) -> None:
        self._arrays: dict[str, Any] = {"embedding": np.array(rows, np.float32)}
        self._arrays |= {
            name: np.array([[text.encode()] for text in each], np.object_) for name, each in texts.items()
        }
        if dimensions is not None:
            self._arrays["dimensions"] = np.array(dimensions, np.int32)

    def as_numpy(self, name: str) -> Any:
        return self._arrays[name]


def test_the_public_names() -> None:
    assert sorted(clip_client.__all__) == [
        "AsyncClipClient", "CheckResult", "ClipClient", "ClipClientError", "ConnectionOptions",
        "EmbeddedObject", "Existing", "ItemError", "MissingExtra", "ModelInfo", "Notice", "ObjectInfo",
        "PhotoResult",
        "RunOptions", "ServerBusy", "ServerCrash", "ServerMismatch", "ServerStatus", "ServerUnavailable",
        "Sink", "SinkError", "Source",
        "SourceError", "SourceOptions", "Stage", "StoredRow", "TimedAnswer", "Timings", "Transport", "check",
        "embed_all", "open_sink", "open_source",
    ]  # fmt: skip


@given(st.lists(st.integers(0, 30), max_size=40), st.integers(1, 8), st.integers(1, 60))
def test_chunks_keep_order_and_bounds(sizes: list[int], limit: int, max_bytes: int) -> None:
    groups = list(wire.chunks(sizes, limit, max_bytes))
    assert [index for group in groups for index in group] == list(range(len(sizes)))
    for group in groups:
        assert 1 <= len(group) <= limit
        assert len(group) == 1 or sum(sizes[index] for index in group) <= max_bytes


def test_an_answer_is_read_row_by_row() -> None:
    nan = [float("nan")] * 4
    errors = ["", "truncated: JPEG 3x4: cut off", "", ""]
    answer = Answer([[1, 0, 0, 0], nan, nan, [2, 0, 0, 0]], error=errors)
    right, truncated, silent, long = _INFO.read_answer(cast("Any", answer))
    assert right.outcome is right.embedding
    assert isinstance(right.embedding, np.ndarray)
    assert right.error is None
    assert (right.notices, right.width, right.height, right.format, right.decode_scale) == ((), *[None] * 4)
    assert truncated.outcome is truncated.error
    assert isinstance(truncated.error, ItemError)
    assert (truncated.error.code, truncated.error.text) == ("truncated", "JPEG 3x4: cut off")
    for bad in (silent, long):
        assert bad.error is not None
        assert bad.error.code == "bad_embedding"
        assert bad.embedding is None


def test_notices_and_facts_come_with_a_photo() -> None:
    answer = Answer(
        [[0.6, 0.8, 0, 0], [float("nan")] * 4],
        [[6000, 4000, 8], [0, 0, 0]],
        error=["", "corrupt: broken"],
        notice=["stray_bytes: 3 bytes: odd\ntruncated: half of it", ""],
        format=["JPEG", ""],
    )
    info = ModelInfo.from_config(config(add_facts))
    first, second = info.read_answer(cast("Any", answer))
    assert first.notices == (Notice("stray_bytes", "3 bytes: odd"), Notice("truncated", "half of it"))
    assert (first.width, first.height, first.format, first.decode_scale) == (6000, 4000, "JPEG", 8)
    assert second.notices == ()
    assert (second.width, second.height, second.format, second.decode_scale) == (None,) * 4


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=6), st.booleans(), st.text(max_size=5))
def test_a_request_is_the_message_that_tritonclient_would_send(
    photos: list[bytes], timed: bool, request_id: str
) -> None:
    array = np.empty((len(photos), 1), np.object_)
    array[:, 0] = photos
    image = InferInput("image", list(array.shape), "BYTES")
    image.set_data_from_numpy(array)
    names = ["embedding", "error", "seconds"] if timed else ["embedding", "error"]
    wanted = _get_inference_request(
        "clip_image", [image], "", request_id, [InferRequestedOutput(name) for name in names],
        0, False, False, 0, None, None,
    )  # fmt: skip
    info = dataclasses.replace(_INFO, seconds_output="seconds")
    sent = info.request_bytes(photos, timed=timed, request_id=request_id)
    assert service_pb2.ModelInferRequest.FromString(sent) == wanted


@pytest.mark.parametrize("size", [2**7, 2**14, 2**21])
def test_lengths_at_the_borders_of_a_varint(size: int) -> None:
    for length in (size - 5, size - 4, size - 3):
        request = service_pb2.ModelInferRequest.FromString(_INFO.request_bytes([bytes(length)]))
        (content,) = request.raw_input_contents
        assert content == length.to_bytes(4, "little") + bytes(length)


def test_what_the_server_would_refuse_for_its_size_is_not_read(tmp_path: Path) -> None:
    info = dataclasses.replace(_INFO, parameters={"max_bytes": "10"})
    large, small = tmp_path / "large.jpg", tmp_path / "small.jpg"
    small.write_bytes(bytes(10))
    with large.open("wb") as file:
        file.truncate(2**40)  # a hole: nobody could read it
    error = read_photo(info, large)
    assert isinstance(error, ItemError)
    assert error.code == "too_many_bytes"
    assert read_photo(info, small) == bytes(10)
    assert isinstance(read_photo(info, bytes(11)), ItemError)
    assert read_photo(_INFO, bytes(11)) == bytes(11), "an older server does not tell its limit"


def config(change: Callable[[pb.ModelConfig], object] | None = None) -> pb.ModelConfig:
    message = pb.ModelConfig(name="clip_image", max_batch_size=64)
    message.input.add(name="image", data_type=pb.TYPE_STRING, dims=[1])
    message.output.add(name="embedding", data_type=pb.TYPE_FP32, dims=[512])
    message.output.add(name="error", data_type=pb.TYPE_STRING, dims=[1])
    if change is not None:
        change(message)
    return message


def test_names_and_dimension_come_from_the_server() -> None:
    info = ModelInfo.from_config(config())
    assert (info.image_input, info.embedding_output, info.error_output) == ("image", "embedding", "error")
    assert (info.dimension, info.max_batch_size) == (512, 64)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.ClearField("input"), "BYTES input for the photo"),
        (lambda m: m.output.pop(0), "FP32 output of one dimension"),
        (lambda m: m.output.pop(1), "BYTES output for the error"),
        (lambda m: m.output.add(name="more", data_type=pb.TYPE_FP32, dims=[3]), "has 2"),
    ],
)
def test_a_model_that_is_not_clip_triton_is_rejected(
    change: Callable[[pb.ModelConfig], object], message: str
) -> None:
    with pytest.raises(ServerMismatch, match=message):
        ModelInfo.from_config(config(change))


def add_facts(message: pb.ModelConfig) -> None:
    """The outputs that servers of release 0.1 do not have."""
    message.output.add(name="notice", data_type=pb.TYPE_STRING, dims=[1])
    message.output.add(name="format", data_type=pb.TYPE_STRING, dims=[1])
    message.output.add(name="dimensions", data_type=pb.TYPE_INT32, dims=[3])


def test_only_outputs_that_the_server_has_are_requested() -> None:
    def requested(info: ModelInfo) -> list[str]:
        request = service_pb2.ModelInferRequest.FromString(info.request_bytes([b"photo"]))
        return [output.name for output in request.outputs]

    assert requested(ModelInfo.from_config(config())) == ["embedding", "error"]
    new = ["embedding", "error", "notice", "format", "dimensions"]
    assert requested(ModelInfo.from_config(config(add_facts))) == new
