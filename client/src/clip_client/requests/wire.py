"""The messages: the model's description, requests, and answers with a vector or an error per photo."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from tritonclient.grpc import InferResult
from tritonclient.grpc import service_pb2 as pb

from clip_client import defaults
from clip_client.errors import ItemError, ServerMismatch
from clip_client.results import Embedding as Embedding
from clip_client.results import Notice, PhotoResult

_LONG = 80
"""Characters of a parameter that are shown."""


@dataclass(frozen=True, repr=False)
class ModelInfo:
    """The server's description of its model."""

    name: str
    image_input: str
    embedding_output: str
    error_output: str
    dimension: int
    max_batch_size: int
    parameters: dict[str, str]
    steps: tuple[str, ...] = ()
    """The composing models of the ensemble, in their order."""
    seconds_output: str | None = None
    """FP64 [2], decode and preprocess seconds; None if the server does not measure them."""
    notice_output: str | None = None
    """BYTES [1], a line per notice. This and the two below are None for a server of release 0.1."""
    format_output: str | None = None
    dimensions_output: str | None = None
    """INT32 [3]: width, height and decode scale."""

    @classmethod
    def from_config(cls, config: Any) -> ModelInfo:
        """From Triton's ModelConfig message. Raises ServerMismatch, which names what is missing."""
        strings = [each.name for each in of_type(config, config.input, "TYPE_STRING")]
        vectors = [each for each in of_type(config, config.output, "TYPE_FP32") if len(each.dims) == 1]
        seconds = [each.name for each in of_type(config, config.output, "TYPE_FP64")]
        numbers = [each.name for each in of_type(config, config.output, "TYPE_INT32")]
        texts = [each.name for each in of_type(config, config.output, "TYPE_STRING")]
        errors = ["error"] if "error" in texts else texts
        for found, what in (
            (strings, "one BYTES input for the photo or text"),
            (vectors, "one FP32 output of one dimension for the embedding"),
            (errors, "one BYTES output for the error"),
        ):
            if len(found) != 1:
                raise ServerMismatch(
                    f"the model {config.name!r} is not a clip-triton model: it must have {what}, but has "
                    f"{len(found)}"
                )
        return cls(
            name=config.name,
            image_input=strings[0],
            embedding_output=vectors[0].name,
            error_output=errors[0],
            seconds_output=seconds[0] if seconds else None,
            notice_output="notice" if "notice" in texts else None,
            format_output="format" if "format" in texts else None,
            dimensions_output="dimensions" if "dimensions" in numbers else None,
            dimension=int(vectors[0].dims[0]),
            max_batch_size=int(config.max_batch_size),
            parameters={key: value.string_value for key, value in config.parameters.items()},
            steps=tuple(step.model_name for step in config.ensemble_scheduling.step),
        )

    @property
    def unpacked_bytes(self) -> int:
        """The largest photo to unpack from an object that is stored compressed."""
        return int(self.parameters.get("max_bytes", defaults.UNPACKED_BYTES))

    def request_bytes(
        self, photos: Sequence[bytes], *, timed: bool = False, request_id: str = "", alone: bool = False
    ) -> bytes:
        """A serialized ModelInferRequest for `photos` (at most the model's batch).

        `alone` fills the batch with empty photos, which cost the server little, so that Triton adds no other
        request to it. The answer then has more rows than `photos`.

        The photos are most of it and are copied only once: the message is serialized without them, and the
        field that holds them, protobuf's last, is appended.
        """
        if alone:
            photos = self.whole_batch(photos)
        about_photos = [self.notice_output, self.format_output, self.dimensions_output]
        wanted = [self.embedding_output, self.error_output, *filter(None, about_photos)]
        if timed and self.seconds_output:
            wanted.append(self.seconds_output)
        head = pb.ModelInferRequest(
            model_name=self.name,
            id=request_id,
            inputs=[{"name": self.image_input, "datatype": "BYTES", "shape": [len(photos), 1]}],
            outputs=[{"name": name} for name in wanted],
        )
        entries = (part for photo in photos for part in (len(photo).to_bytes(4, "little"), photo))
        return b"".join([head.SerializeToString(), *raw_contents(list(entries))])

    def whole_batch(self, photos: Sequence[bytes]) -> list[bytes]:
        """`photos`, and empty ones up to the largest batch."""
        return [*photos, *[b""] * (self.max_batch_size - len(photos))]

    def read_answer(self, result: InferResult) -> list[PhotoResult]:
        """One entry per photo, in the order of the request."""
        rows = result.as_numpy(self.embedding_output)
        return [
            PhotoResult.of(error or read_row(row, self.dimension), **facts)
            for row, (error, facts) in zip(rows, read_facts(self, result, len(rows)), strict=True)
        ]

    def __repr__(self) -> str:
        """Without the pictures among the parameters: they have thousands of characters."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        fields["parameters"] = {
            key: value if len(value) <= _LONG else f"<{len(value)} characters>"
            for key, value in self.parameters.items()
        }
        return f"ModelInfo({', '.join(f'{name}={value!r}' for name, value in fields.items())})"

    @property
    def most_bytes(self) -> int:
        """Of a photo that the server accepts."""
        return int(self.parameters.get("max_bytes", defaults.MAX_PHOTO_BYTES))

    def too_large(self, size: int) -> ItemError | None:
        """The error for a photo of `size` bytes that the server would reject; None for others.

        Called before the photo is loaded or sent.
        """
        if size <= (most := self.most_bytes):
            return None
        return ItemError("too_many_bytes", f"{size:,} bytes; the server accepts at most {most:,}")


def of_type(config: Any, tensors: Sequence[Any], name: str) -> list[Any]:
    """The inputs or outputs of a ModelConfig that have Triton's type of this name."""
    number = config.DESCRIPTOR.file.enum_types_by_name["DataType"].values_by_name[name].number
    return [each for each in tensors if each.data_type == number]


def collect(
    results: Sequence[PhotoResult], info: ModelInfo, on_error: Literal["raise", "return"]
) -> Embedding | list[Embedding | ItemError]:
    """The result of embed(): a list, or an array [N, D]. Raises the first ItemError for "raise"."""
    return [result.outcome for result in results] if on_error == "return" else stacked(results, info)


def stacked(results: Sequence[PhotoResult], info: ModelInfo) -> Embedding:
    """float32 [N, D]. Raises the first ItemError."""
    rows: list[Embedding] = []
    for result in results:
        if isinstance(result.outcome, ItemError):
            raise result.outcome
        rows.append(result.outcome)
    return np.stack(rows) if rows else np.empty((0, info.dimension), np.float32)


def raw_contents(parts: Sequence[bytes]) -> list[bytes]:
    """The field with the content of one input, which consists of `parts`."""
    return [_RAW_INPUT_CONTENTS, _varint(sum(map(len, parts))), *parts]


_RAW_INPUT_CONTENTS = bytes([pb.ModelInferRequest.RAW_INPUT_CONTENTS_FIELD_NUMBER << 3 | 2])
"""Protobuf's tag of that field: its number and the wire type for length-prefixed bytes."""


def _varint(number: int) -> bytes:
    """Protobuf's encoding of lengths: seven bits per byte, the lowest first."""
    groups = bytearray()
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*groups, number])


def read_facts(
    info: ModelInfo, result: InferResult, count: int
) -> list[tuple[ItemError | None, dict[str, Any]]]:
    """Of each of the `count` photos: its error, and the other fields of its PhotoResult."""
    dimensions = [(0, 0, 0)] * count
    if info.dimensions_output:
        dimensions = result.as_numpy(info.dimensions_output).tolist()
    return [
        (ItemError.from_wire(error) if error else None, _facts(notice, format_name, sides_and_scale))
        for error, notice, format_name, sides_and_scale in zip(
            _texts(result, info.error_output, count),
            _texts(result, info.notice_output, count),
            _texts(result, info.format_output, count),
            dimensions,
            strict=True,
        )
    ]


def _facts(notice: str, format_name: str, dimensions: tuple[int, int, int]) -> dict[str, Any]:
    width, height, scale = (number or None for number in dimensions)
    return {
        "notices": tuple(map(Notice.from_wire, notice.splitlines())),
        "width": width,
        "height": height,
        "format": format_name or None,
        "decode_scale": scale,
    }


def _texts(result: InferResult, output: str | None, count: int) -> list[str]:
    """A BYTES output of one text per photo; "" for an output that the server does not have."""
    if output is None:
        return [""] * count
    return [text.decode("utf-8", "replace") for text in result.as_numpy(output).reshape(-1)]


def read_row(row: Embedding, dimension: int) -> Embedding | ItemError:
    """The vector if its norm is 1, else an error."""
    if len(row) != dimension:
        text = (
            f"the server returned {len(row)} numbers instead of {dimension}. Does it serve another model now?"
        )
        return ItemError("bad_embedding", text)
    norm = float(np.linalg.norm(row))
    # Comparisons with NaN are false, so a NaN row is never valid.
    if not abs(norm - 1.0) <= defaults.NORM_TOLERANCE:
        return ItemError("bad_embedding", f"the server returned a vector of norm {norm:.4g} instead of 1")
    return row


def filled(read: Sequence[bytes | ItemError], answers: Sequence[PhotoResult]) -> list[PhotoResult]:
    """The result of each entry of `read`: the answer for a photo, or the error itself."""
    rest = iter(answers)
    return [next(rest) if isinstance(entry, bytes) else PhotoResult.of(entry) for entry in read]


def chunks(sizes: Sequence[int], limit: int, max_bytes: int) -> Iterator[list[int]]:
    """Splits photos, given their sizes, into requests of at most `limit` photos and `max_bytes` bytes.

    Yields the indices for each request. A photo larger than `max_bytes` gets a request of its own.
    """
    chunk: list[int] = []
    total = 0
    for index, size in enumerate(sizes):
        if chunk and (len(chunk) == limit or total + size > max_bytes):
            yield chunk
            chunk, total = [], 0
        chunk.append(index)
        total += size
    if chunk:
        yield chunk
