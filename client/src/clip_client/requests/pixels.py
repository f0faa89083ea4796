"""The messages of the two steps apart: photos to the preprocess model, its pixels to the encoder.

They have the same shape for retry.py as the ensemble's: a request of `photos`, each of them bytes, and an
answer with a PhotoResult per photo.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tritonclient.grpc import InferResult
from tritonclient.grpc import service_pb2 as pb

from clip_client.errors import ServerMismatch
from clip_client.requests.wire import ModelInfo, of_type, raw_contents, read_facts, read_row
from clip_client.results import PhotoResult


@dataclass(frozen=True, repr=False)
class EncoderInfo(ModelInfo):
    """The server's description of its encoder, whose photos are uint8 pixels, [H,W,3] in C order."""

    valid_input: str = "valid"
    pixels: tuple[int, ...] = ()
    """(height, width, 3)."""
    instances: int = 1
    """How many batches it computes at a time, on one GPU if on any."""
    preprocess: Mapping[str, str] = field(default_factory=dict)
    """Settings and version of the pixels that it expects; empty if it does not state them."""

    @classmethod
    def from_config(cls, config: Any) -> EncoderInfo:
        """From Triton's ModelConfig message. Raises ServerMismatch, which names what is missing."""
        pixels = of_type(config, config.input, "TYPE_UINT8")
        valid = of_type(config, config.input, "TYPE_BOOL")
        vectors = of_type(config, config.output, "TYPE_FP32")
        if not len(pixels) == len(valid) == len(vectors) == 1:
            raise ServerMismatch(
                f"the model {config.name!r} is not clip-triton's encoder: it must have one UINT8 input, one "
                f"BOOL input and one FP32 output, but has {len(pixels)}, {len(valid)} and {len(vectors)}"
            )
        parameters = {key: value.string_value for key, value in config.parameters.items()}
        return cls(
            name=config.name,
            image_input=pixels[0].name,
            valid_input=valid[0].name,
            pixels=tuple(pixels[0].dims),
            embedding_output=vectors[0].name,
            error_output="",
            dimension=int(vectors[0].dims[-1]),
            max_batch_size=int(config.max_batch_size),
            parameters=parameters,
            steps=(config.name,),
            instances=sum(group.count for group in config.instance_group),
            preprocess=json.loads(parameters.get("preprocess", "{}")),
        )

    def as_model(self, name: str, max_batch_size: int, limits: Mapping[str, str]) -> ModelInfo:
        """The description of both steps together, like the ensemble's."""
        return ModelInfo(
            name=name,
            image_input=self.image_input,
            embedding_output=self.embedding_output,
            error_output="",
            dimension=self.dimension,
            max_batch_size=min(max_batch_size, self.max_batch_size),
            parameters={**self.parameters, **limits},
            steps=(self.name,),
        )

    def request_bytes(
        self, photos: Sequence[bytes], *, timed: bool = False, request_id: str = "", alone: bool = False
    ) -> bytes:
        """Like ModelInfo.request_bytes(). A photo without bytes is an empty row, which costs little."""
        del timed  # this client has measured its part
        if alone:
            photos = self.whole_batch(photos)
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
        return [
            PhotoResult.of(read_row(row, self.dimension)) for row in result.as_numpy(self.embedding_output)
        ]


@dataclass(frozen=True, eq=False)
class PixelResult(PhotoResult):
    """One photo's `pixels`, uint8 [H,W,3] as bytes, instead of its embedding."""

    pixels: bytes = b""


@dataclass(frozen=True)
class DecodedPhoto:
    """One photo's uint8 pixels [H,W,3] as bytes, or none if `facts` has its error; and what it cost here."""

    pixels: bytes
    facts: PhotoResult
    """Without its embedding."""
    decode_s: float = 0.0
    preprocess_s: float = 0.0

    @classmethod
    def of(cls, result: PhotoResult) -> DecodedPhoto:
        """From a server's answer."""
        facts = {each.name: getattr(result, each.name) for each in dataclasses.fields(PhotoResult)}
        return cls(result.pixels if isinstance(result, PixelResult) else b"", PhotoResult(**facts))


@dataclass(frozen=True, repr=False)
class PreprocessInfo(ModelInfo):
    """The server's description of its preprocess model, whose answers are pixels."""

    pixels: tuple[int, ...] = ()
    """(height, width, 3)."""

    @classmethod
    def from_config(cls, config: Any) -> PreprocessInfo:
        """From Triton's ModelConfig message. Raises ServerMismatch, which names what is missing."""
        images = of_type(config, config.input, "TYPE_STRING")
        pixels = of_type(config, config.output, "TYPE_UINT8")
        outputs = {each.name for each in config.output}
        missing = {"error", "notice", "format", "dimensions", "stage_seconds"} - outputs
        if len(images) != 1 or len(pixels) != 1 or missing:
            lacks = f", and it lacks the outputs {', '.join(sorted(missing))}" if missing else ""
            raise ServerMismatch(
                f"the model {config.name!r} is not a preprocess model of this release: it must have one "
                f"BYTES input and one UINT8 output, but has {len(images)} and {len(pixels)}{lacks}"
            )
        return cls(
            name=config.name,
            image_input=images[0].name,
            embedding_output=pixels[0].name,
            error_output="error",
            seconds_output="stage_seconds",
            notice_output="notice",
            format_output="format",
            dimensions_output="dimensions",
            dimension=0,
            max_batch_size=int(config.max_batch_size),
            parameters={key: value.string_value for key, value in config.parameters.items()},
            steps=(config.name,),
            pixels=tuple(pixels[0].dims),
        )

    def read_answer(self, result: InferResult) -> list[PhotoResult]:
        rows = result.as_numpy(self.embedding_output)
        return [
            PixelResult(**facts, error=error, pixels=b"" if error else row.tobytes())
            for row, (error, facts) in zip(rows, read_facts(self, result, len(rows)), strict=True)
        ]
