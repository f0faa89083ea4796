"""Servers for the client's tests that are functions in this process, and requests in simulated time."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import model_config_pb2, service_pb2

from clip_client import ModelInfo, TimedAnswer
from clip_client.requests.failures import Failure
from clip_client.requests.flow import Call, Flow, Wait
from clip_client.requests.retry import RetryEngine
from clip_client.requests.servers import Servers

INFO = ModelInfo("clip_image", "image", "embedding", "error", 2, 64, {})

_S = grpc.StatusCode
FULL = Failure(_S.UNAVAILABLE, "Exceeds maximum queue size")
CONNECTING = Failure(
    _S.UNAVAILABLE,
    "connections to all backends failing; last error: UNKNOWN: ipv4:127.0.0.1:8001: "
    "Failed to connect to remote host: getsockopt(SO_ERROR): Connection reset by peer",
)
REFUSED = Failure(
    _S.UNAVAILABLE,
    "connections to all backends failing; last error: UNKNOWN: ipv4:127.0.0.1:8001: "
    "Failed to connect to remote host: Connection refused",
)
BROKEN = Failure(_S.UNAVAILABLE, "Stream removed (Socket closed)")
SILENT = Failure(_S.DEADLINE_EXCEEDED, "Deadline Exceeded")
INVALID = Failure(_S.INVALID_ARGUMENT, "unexpected shape for input")
SHM_FULL = Failure(
    _S.INTERNAL,
    "Failed to increase the shared memory pool size for key 'triton_python_backend_shm_region_1' to 9 bytes",
)


def stub(number: int) -> Failure:
    """A dead process of the Python backend."""
    return Failure(_S.INTERNAL, f"Stub process 'clip_image_preprocess_0_{number}' is not healthy.")


class Failed(grpc.RpcError):  # type: ignore[misc]
    """A Failure as gRPC raises it."""

    def __init__(self, failure: Failure) -> None:
        super().__init__()
        self._failure = failure

    def code(self) -> grpc.StatusCode:
        return self._failure.status

    def details(self) -> str:
        return self._failure.text


def answer(photos: Sequence[bytes]) -> service_pb2.ModelInferResponse:
    """A vector for each photo."""
    count = len(photos)
    return service_pb2.ModelInferResponse(
        outputs=[
            {"name": "embedding", "datatype": "FP32", "shape": [count, 2]},
            {"name": "error", "datatype": "BYTES", "shape": [count, 1]},
        ],
        raw_output_contents=[np.tile(np.array([0.6, 0.8], np.float32), count).tobytes(), bytes(4 * count)],
    )


def photos_of(request: bytes) -> list[bytes]:
    """The photos in a serialized request."""
    (content,) = service_pb2.ModelInferRequest.FromString(request).raw_input_contents
    photos = []
    while content:
        size = int.from_bytes(content[:4], "little")
        photos.append(content[4 : 4 + size])
        content = content[4 + size :]
    return photos


def without_padding(photos: Sequence[bytes]) -> list[bytes]:
    """The photos of a request, without the empty ones that fill its batch."""
    return [photo for photo in photos if photo]


Outcome = Callable[[list[bytes]], Failure | None]
"""Why a server fails with these photos; None if it answers."""


class FakeTransport:
    """A Transport to a function. Each request takes `seconds`."""

    def __init__(self, outcome: Outcome, seconds: float = 0.0) -> None:
        self._outcome, self._seconds = outcome, seconds

    def infer(self, request: bytes, timeout_s: float) -> Any:
        del timeout_s
        time.sleep(self._seconds)
        return self.result(request)

    def result(self, request: bytes) -> Any:
        photos = photos_of(request)
        if failure := self._outcome(photos):
            raise Failed(failure)
        return answer(photos)

    def config(self, model: str, timeout_s: float) -> Any:
        del timeout_s
        config = model_config_pb2.ModelConfig(name=model, max_batch_size=64)
        config.input.add(name="image", data_type=model_config_pb2.TYPE_STRING, dims=[1])
        config.output.add(name="embedding", data_type=model_config_pb2.TYPE_FP32, dims=[2])
        config.output.add(name="error", data_type=model_config_pb2.TYPE_STRING, dims=[1])
        return service_pb2.ModelConfigResponse(config=config)

    def statistics(self, model: str, timeout_s: float) -> Any:
        del model, timeout_s
        raise Failed(INVALID)

    def ready(self, timeout_s: float) -> Any:
        del timeout_s
        raise Failed(INVALID)

    def close(self) -> Any:
        """Has no calls to end."""


class AsyncFakeTransport(FakeTransport):
    """As FakeTransport, for asyncio."""

    async def infer(self, request: bytes, timeout_s: float) -> Any:
        del timeout_s
        await asyncio.sleep(self._seconds)
        return self.result(request)

    async def config(self, model: str, timeout_s: float) -> Any:
        return super().config(model, timeout_s)

    async def close(self) -> Any:
        """Has no calls to end."""


@dataclass
class _Running:
    """A flow, what it waits for, and when that is over."""

    flow: Flow[TimedAnswer]
    command: Wait | Call | None = None
    until: float = 0.0
    result: Any = None
    ended: bool = False


class Simulation:
    """Requests of one engine in simulated time, without threads or sleeping.

    A request takes `seconds`; `outcome` is called at its end. `in_flight` holds the photos of the requests
    that the server has at the moment. Flows that are ready at the same time run in random order if `shuffle`
    is given.
    """

    def __init__(
        self,
        outcome: Outcome,
        *,
        seconds: float = 0.1,
        deadline_s: float = 0.8,
        concurrency: int = 1,
        shuffle: random.Random | None = None,
    ) -> None:
        self.now = 0.0
        self.in_flight: list[list[bytes]] = []
        self.most_in_flight = 0
        self._outcome, self._seconds, self._shuffle = outcome, seconds, shuffle
        transport = FakeTransport(outcome)
        servers = Servers({"url": transport}, concurrency)
        self.engine = RetryEngine(servers, deadline_s, threading.Event, lambda: self.now)

    def requests(self, *groups: Sequence[bytes]) -> list[Any]:
        """Sends all groups at once; the entries of each, or what was raised."""
        flows = [_Running(self.engine.request(INFO, photos)) for photos in groups]
        while waiting := [each for each in flows if not each.ended]:
            ready = [each for each in waiting if self._is_ready(each)]
            if not ready:
                self.now = min(each.until for each in waiting)
                continue
            self._step(self._shuffle.choice(ready) if self._shuffle else ready[0])
        return [each.result for each in flows]

    def _is_ready(self, each: _Running) -> bool:
        is_set = isinstance(each.command, Wait) and each.command.event.is_set()
        return is_set or each.until <= self.now

    def _step(self, each: _Running) -> None:
        result = None
        if isinstance(each.command, Call):
            result = self._end_call(each.command)
        try:
            each.command = each.flow.send(result)
        except StopIteration as stop:
            each.result, each.ended = stop.value.outcomes, True
            return
        except Exception as error:
            each.result, each.ended = error, True
            return
        each.until = self.now + self._begin(each.command)

    def _begin(self, command: Wait | Call) -> float:
        """Seconds that it takes at most."""
        if isinstance(command, Wait):
            return command.timeout_s
        self.in_flight.append(photos_of(command.argument))
        self.most_in_flight = max(self.most_in_flight, len(self.in_flight))
        return min(self._seconds, command.timeout_s)

    def _end_call(self, command: Call) -> Any:
        photos = photos_of(command.argument)
        failure = self._outcome(photos) if command.timeout_s >= self._seconds else SILENT
        self.in_flight.remove(photos)
        return failure or answer(photos)
