"""Requests, answers and retries, without a server."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import model_config_pb2 as pb
from tritonclient.utils import InferenceServerException

import clip_client
from clip_client import ItemError, ModelInfo, ServerMismatch, transport

_INFO = ModelInfo("clip_image", "image", "embedding", "error", 4, 64, {})


class Answer:
    """What tritonclient's InferResult gives, for rows made here."""

    def __init__(self, rows: list[list[float]], errors: list[str]) -> None:
        self._arrays = {
            "embedding": np.array(rows, np.float32),
            "error": np.array([[error.encode()] for error in errors], np.object_),
        }

    def as_numpy(self, name: str) -> np.ndarray:  # type: ignore[type-arg]
        return self._arrays[name]


def test_the_public_names() -> None:
    assert sorted(clip_client.__all__) == [
        "AsyncClipClient", "CheckResult", "ClipClient", "ClipClientError", "ConnectionOptions", "ItemError",
        "ModelInfo", "ServerBusy", "ServerMismatch", "ServerUnavailable", "SinkError", "SourceError",
        "Stage", "TimedAnswer", "Timings", "check",
    ]  # fmt: skip


@given(st.lists(st.integers(0, 30), max_size=40), st.integers(1, 8), st.integers(1, 60))
def test_chunks_keep_order_and_bounds(sizes: list[int], limit: int, max_bytes: int) -> None:
    photos = [b"x" * size for size in sizes]
    groups = list(transport.chunks(photos, limit, max_bytes))
    assert [index for group in groups for index in group] == list(range(len(photos)))
    for group in groups:
        assert 1 <= len(group) <= limit
        assert len(group) == 1 or sum(sizes[index] for index in group) <= max_bytes


def test_an_answer_is_read_row_by_row() -> None:
    nan = [float("nan")] * 4
    answer = Answer([[1, 0, 0, 0], nan, nan, [2, 0, 0, 0]], ["", "truncated: JPEG 3x4: cut off", "", ""])
    right, truncated, silent, long = transport.read_answer(_INFO, answer)
    assert isinstance(right, np.ndarray)
    assert isinstance(truncated, ItemError)
    assert (truncated.code, truncated.text) == ("truncated", "JPEG 3x4: cut off")
    assert isinstance(silent, ItemError)
    assert silent.code == "bad_embedding"
    assert isinstance(long, ItemError)
    assert long.code == "bad_embedding"


@pytest.mark.parametrize(
    ("message", "status", "expected"),
    [
        ("Exceeds maximum queue size", "StatusCode.UNAVAILABLE", True),
        ("Stub process 'clip_image_preprocess_0_1' is not healthy.", "StatusCode.INTERNAL", True),
        ("Request for unknown model: 'clip_image' has no available versions", "StatusCode.INVALID", True),
        ("Request for unknown model: 'clip_imag' is not found", "StatusCode.NOT_FOUND", False),
        ("unexpected shape for input", "StatusCode.INVALID_ARGUMENT", False),
        ("Deadline Exceeded", "StatusCode.DEADLINE_EXCEEDED", False),
        ("This protocol is restricted, expecting header 'x'", "StatusCode.UNAVAILABLE", False),
        ("token expired", "StatusCode.UNAUTHENTICATED", False),
    ],
)
def test_what_is_worth_another_try(message: str, status: str, expected: bool) -> None:
    assert transport.is_retryable(InferenceServerException(message, status)) is expected


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
def test_a_model_that_is_not_ours_is_refused(
    change: Callable[[pb.ModelConfig], object], message: str
) -> None:
    with pytest.raises(ServerMismatch, match=message):
        ModelInfo.from_config(config(change))


def test_a_photo_that_processes_die_of_is_given_up() -> None:
    death = InferenceServerException("Stub process 'clip_image_preprocess_0_0' is not healthy.")
    away = InferenceServerException("connection refused", "StatusCode.UNAVAILABLE")
    retryable = transport.Retryable()
    tries = [retryable(error) for error in (death, away, death, away, death, death, death)]
    assert tries == [True] * 6 + [False]


def test_what_could_be_read_of_a_truncated_photo_comes_with_its_error() -> None:
    row = np.array([0.6, 0.8], np.float32)
    kept = transport._read_row(row, "truncated: JPEG: the picture data ends too early")
    lost = transport._read_row(row * np.nan, "truncated: JPEG: the picture data ends too early")
    assert isinstance(kept, ItemError)
    assert isinstance(lost, ItemError)
    assert kept.code == lost.code == "truncated"
    assert kept.embedding is row
    assert lost.embedding is None
