"""The other placement of decoding: pixels of photos that this process decoded, straight to the encoder.

The encoder's messages have the same shape for retry.py as the ensemble's: a request of `photos`, each of them
bytes, and an answer with a PhotoResult per photo.
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future, wait
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from tritonclient.grpc import InferResult
from tritonclient.grpc import service_pb2 as pb

from clip_client.errors import ItemError, ServerMismatch
from clip_client.requests.retry import Call, Flow, RetryEngine
from clip_client.requests.wire import ModelInfo, raw_contents, read_row
from clip_client.results import PhotoResult
from clip_client.timings import TimedAnswer


@dataclass(frozen=True, repr=False)
class EncoderInfo(ModelInfo):
    """The server's description of its encoder, whose photos are uint8 pixels, [H,W,3] in C order."""

    valid_input: str = "valid"
    pixels: tuple[int, ...] = ()
    """(height, width, 3)."""

    @classmethod
    def from_config(cls, config: Any) -> EncoderInfo:
        """From Triton's ModelConfig message. Raises ServerMismatch, which names what is missing."""
        kinds = config.DESCRIPTOR.file.enum_types_by_name["DataType"].values_by_name
        pixels = [each for each in config.input if each.data_type == kinds["TYPE_UINT8"].number]
        valid = [each for each in config.input if each.data_type == kinds["TYPE_BOOL"].number]
        vectors = [each for each in config.output if each.data_type == kinds["TYPE_FP32"].number]
        if not len(pixels) == len(valid) == len(vectors) == 1:
            raise ServerMismatch(
                f"the model {config.name!r} is not clip-triton's encoder: it must have one UINT8 input, one "
                f"BOOL input and one FP32 output, but has {len(pixels)}, {len(valid)} and {len(vectors)}"
            )
        return cls(
            name=config.name,
            image_input=pixels[0].name,
            valid_input=valid[0].name,
            pixels=tuple(pixels[0].dims),
            embedding_output=vectors[0].name,
            error_output="",
            dimension=int(vectors[0].dims[-1]),
            max_batch_size=int(config.max_batch_size),
            parameters={key: value.string_value for key, value in config.parameters.items()},
            steps=(config.name,),
        )

    def request_bytes(
        self, photos: Sequence[bytes], *, timed: bool = False, request_id: str = "", alone: bool = False
    ) -> bytes:
        """Like ModelInfo.request_bytes(). A photo without bytes is an empty row, which costs little."""
        del timed  # this client has measured its part
        if alone:
            photos = [*photos, *[b""] * (self.max_batch_size - len(photos))]
        count = len(photos)
        head = pb.ModelInferRequest(
            model_name=self.name,
            id=request_id,
            inputs=[
                {"name": self.image_input, "datatype": "UINT8", "shape": [count, *self.pixels]},
                {"name": self.valid_input, "datatype": "BOOL", "shape": [count, 1]},
            ],
            outputs=[{"name": self.embedding_output}],
        )
        empty = bytes(int(np.prod(self.pixels)))
        valid = bytes(bool(photo) for photo in photos)
        rows = raw_contents([photo or empty for photo in photos])
        return b"".join([head.SerializeToString(), *rows, *raw_contents([valid])])

    def read_answer(self, result: InferResult) -> list[PhotoResult]:
        return [PhotoResult.of(read_row(row, "")) for row in result.as_numpy(self.embedding_output)]


@dataclass(frozen=True)
class DecodedPhoto:
    """One photo's uint8 pixels [H,W,3] as bytes, or none if `facts` has its error; and what it cost."""

    pixels: bytes
    facts: PhotoResult
    """Without its embedding."""
    decode_s: float
    preprocess_s: float


class Decoder(Protocol):
    """Decodes photos on threads."""

    def submit(self, photo: bytes) -> Future[DecodedPhoto]:
        """Never fails for a photo. Raises RuntimeError after close()."""

    def close(self) -> None:
        """Cancels photos that wait for a thread. Does not wait for those being decoded."""


OpenDecoder = Callable[[Mapping[str, str], str], Decoder]
"""From the parameters of the server's preprocess model, and the server's address. Raises ServerMismatch."""
Decoding = Sequence["Future[DecodedPhoto]"]
WaitFor = Callable[[Decoding, float], Any]


def wait_for(futures: Decoding, timeout_s: float) -> None:
    """Returns when all futures are done; each photo has a deadline of its own."""
    del timeout_s
    wait(futures)


async def wait_for_async(futures: Decoding, timeout_s: float) -> None:
    """Like wait_for(), in this task."""
    del timeout_s
    await asyncio.gather(*map(asyncio.wrap_future, futures), return_exceptions=True)


class ClientPlacement:
    """Decodes in this process, and sends pixels to the encoder."""

    def __init__(self, engine: RetryEngine, encoder: EncoderInfo, decoder: Decoder, wait: WaitFor) -> None:
        self.encoder = encoder
        self._engine, self._decoder, self._wait = engine, decoder, wait

    @classmethod
    def open(
        cls, engine: RetryEngine, info: ModelInfo, deadline_s: float, open_decoder: OpenDecoder, wait: WaitFor
    ) -> Flow[ClientPlacement]:
        """Asks the server for its preprocess settings and its encoder.

        Raises ServerUnavailable, and ServerMismatch for a server whose pixels this process cannot compute.
        """
        if len(info.steps) != 2:
            raise ServerMismatch(
                f"the model {info.name!r} does not consist of a preprocess model and an encoder, but of "
                f'{list(info.steps)}. Use decode="server"'
            )
        preprocess = yield from engine.model_config(info.steps[0], deadline_s)
        encoder = EncoderInfo.from_config((yield from engine.model_config(info.steps[1], deadline_s)))
        parameters = {key: value.string_value for key, value in preprocess.parameters.items()}
        return cls(engine, encoder, open_decoder(parameters, engine.servers.url), wait)

    def request(
        self, photos: Sequence[bytes], *, timed: bool = False, request_id: str = ""
    ) -> Flow[TimedAnswer]:
        """Like RetryEngine.request(). The deadline does not include the decoding, which has its own."""
        self._engine.require_open()
        begin = time.perf_counter()
        decoded = yield from self._decode(photos)
        decoded_s = time.perf_counter() - begin
        sent = [each.pixels for each in decoded if each.facts.error is None]
        answer = TimedAnswer([], 0.0)
        if sent:
            answer = yield from self._engine.request(self.encoder, sent, timed=timed, request_id=request_id)
        seconds = np.array([(each.decode_s, each.preprocess_s) for each in decoded], np.float64)
        waited_s = answer.waited_s + max(0.0, decoded_s - float(seconds.sum()))
        results = _merged(decoded, answer.results)
        return TimedAnswer(results, decoded_s + answer.seconds, seconds, waited_s)

    def _decode(self, photos: Sequence[bytes]) -> Flow[list[DecodedPhoto]]:
        futures: list[Future[DecodedPhoto]] = []
        try:
            futures += map(self._decoder.submit, photos)
            yield Call(self._wait, futures, math.inf)
            return [future.result() for future in futures]
        except (CancelledError, RuntimeError):  # the pool's errors after close()
            self._engine.require_open()
            raise
        finally:
            for future in futures:  # those that still wait for a thread, if the caller gives up
                future.cancel()

    def close(self) -> None:
        self._decoder.close()


def _merged(decoded: Sequence[DecodedPhoto], answers: Sequence[PhotoResult]) -> list[PhotoResult]:
    rest = iter(answers)
    return [
        each.facts if each.facts.error is not None else _with_outcome(each.facts, next(rest))
        for each in decoded
    ]


def _with_outcome(facts: PhotoResult, answer: PhotoResult) -> PhotoResult:
    """Notices are remarks about photos that were embedded."""
    if isinstance(answer.outcome, ItemError):
        return dataclasses.replace(facts, error=answer.error, notices=())
    return dataclasses.replace(facts, embedding=answer.embedding)
