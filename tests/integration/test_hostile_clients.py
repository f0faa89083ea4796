"""Other clients send malformed requests, or ask for what is not theirs: it costs no photo."""

from __future__ import annotations

import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest
from tritonclient.grpc import InferenceServerClient
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub
from tritonclient.utils import InferenceServerException

from clip_client import ClipClient, ItemError
from clip_client.requests.wire import Embedding
from clip_serving import defaults
from clip_serving.repository.stage import InstanceLayout
from clip_serving.server.embedded import ServerOptions, TritonServer
from testing.pictures import encoded, noise
from testing.repositories import linked_repository
from testing.servers import short_lived
from testing.waiting import PATIENCE_S, wait_until

_SIDE = 224


def photo_request(model: str, raw: bytes) -> pb.ModelInferRequest:
    return pb.ModelInferRequest(
        model_name=model,
        inputs=[{"name": "image", "datatype": "BYTES", "shape": [1, 1]}],
        raw_input_contents=[raw],
    )


def pixels_request(pixels: list[int], valid: list[int], rows: int) -> pb.ModelInferRequest:
    return pb.ModelInferRequest(
        model_name="clip_image_encoder",
        inputs=[
            {"name": "pixels", "datatype": "UINT8", "shape": [*pixels, _SIDE, _SIDE, 3]},
            {"name": "valid", "datatype": "BOOL", "shape": valid},
        ],
        raw_input_contents=[bytes(rows * _SIDE * _SIDE * 3), bytes([1] * rows)],
    )


@contextmanager
def hostile(server: TritonServer, request: pb.ModelInferRequest) -> Iterator[Callable[[], int]]:
    """Three clients that send `request` again and again; yields how often the server rejected it."""
    over, rejected = threading.Event(), []

    def send() -> None:
        with grpc.insecure_channel(server.grpc_url) as channel:
            stub = GRPCInferenceServiceStub(channel)
            while not over.is_set():
                try:
                    stub.ModelInfer(request, timeout=PATIENCE_S)
                except grpc.RpcError as error:
                    rejected.append(error)

    clients = [threading.Thread(target=send) for _ in range(3)]
    for client in clients:
        client.start()
    try:
        wait_until(lambda: rejected, "a rejected request")
        yield lambda: len(rejected)
    finally:
        over.set()
        for client in clients:
            client.join()


@pytest.fixture(scope="module")
def photos() -> list[bytes]:
    return [encoded(noise(320 + 8 * index, 240), "JPEG") for index in range(4)]


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(photo_request("clip_image", b"\xff\xff\xff\xffx"), id="length that overflows"),
        pytest.param(photo_request("clip_image_preprocess", b"\xff\xff\xff\x7fx"), id="to preprocess itself"),
        pytest.param(pixels_request([0], [0, 1], 1), id="pixels of no row"),
    ],
)
def test_no_good_photo_is_lost(
    server: TritonServer, photos: list[bytes], request_: pb.ModelInferRequest
) -> None:
    with ClipClient(server.grpc_url, deadline_s=PATIENCE_S) as client:
        wanted = [client.embed([photo])[0] for photo in photos]
        with hostile(server, request_) as rejections, ThreadPoolExecutor(16) as pool:
            before = rejections()
            singles = list(pool.map(lambda index: client.request([photos[index % 4]])[0], range(120)))
            groups = client.embed(photos * 8, on_error="return")
            assert rejections() > before, "the hostile clients were there all the time"
    assert_right(singles, wanted)
    assert_right(groups, wanted)


def assert_right(outcomes: list[Embedding | ItemError], wanted: list[Embedding]) -> None:
    for index, outcome in enumerate(outcomes):
        assert not isinstance(outcome, ItemError), outcome
        np.testing.assert_allclose(outcome, wanted[index % 4], atol=1e-4)


def test_shared_memory_traces_and_logs_are_not_for_clients(server: TritonServer) -> None:
    with InferenceServerClient(server.grpc_url) as triton:
        for call in (
            triton.get_system_shared_memory_status,
            triton.get_trace_settings,
            triton.get_log_settings,
            triton.get_model_repository_index,
        ):
            with pytest.raises(InferenceServerException, match="This protocol is restricted"):
                call()
            call(headers=server.admin_headers)
    for path in ("systemsharedmemory/status", "trace/setting", "logging"):
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(f"{server.http_url}/v2/{path}")


_SLOW = """
import time
from clip_serving.triton_models.encoder import TritonPythonModel as Encoder

class TritonPythonModel(Encoder):
    def _embed(self, pixels, valid):
        time.sleep(0.02 * len(pixels))
        return super()._embed(pixels, valid)
"""


def waiting(server: TritonServer, model: str) -> int:
    with urllib.request.urlopen(server.metrics_url) as answer:
        text = answer.read().decode()
    (count,) = re.findall(rf'nv_inference_pending_request_count{{model="{model}",.*}} (\d+)', text)
    return int(count)


def test_requests_wait_before_the_decoder_and_nowhere_else(small_repository: Path, tmp_path: Path) -> None:
    """Small photos, decoded far faster than they are embedded, whose client gives up on all of them."""
    root = linked_repository(small_repository, tmp_path / "slow")
    (root / "clip_image_encoder" / "1" / "model.py").write_text(_SLOW)
    options = ServerOptions(layout=InstanceLayout(2, 1, 1, 1))
    most = 0
    with short_lived(root, options) as server, ClipClient(server.grpc_url, deadline_s=PATIENCE_S) as client:
        photo = encoded(noise(64, 48), "JPEG")
        request = photo_request("clip_image", len(photo).to_bytes(4, "little") + photo).SerializeToString()
        with grpc.insecure_channel(server.grpc_url) as channel:
            call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            sent = []
            for count in range(600):
                sent.append(call.future(request, timeout=PATIENCE_S))
                if count % 20 == 19:
                    time.sleep(0.05)
                    most = max(most, waiting(server, "clip_image_encoder"))
            for each in sent:
                each.cancel()
        client.embed([photo])
    on_their_way = 4 * defaults.PREPROCESS_PREFERRED_BATCH_SIZE
    assert 0 < most <= defaults.MAX_BACKLOG + on_their_way
