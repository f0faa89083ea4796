"""The messages: the model's description, requests, and answers with a vector or an error per photo."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from tritonclient.grpc import InferResult
from tritonclient.grpc import service_pb2 as pb

from clip_client import defaults
from clip_client.errors import ItemError, ServerMismatch

Embedding = npt.NDArray[np.float32]
Image = bytes | Path | str
"""An encoded photo, or the path of one."""


@dataclass(frozen=True)
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

    @classmethod
    def from_config(cls, config: Any) -> ModelInfo:
        """From Triton's ModelConfig message. Raises ServerMismatch, which names what is missing."""
        strings = [i.name for i in config.input if i.data_type == _type(config, "TYPE_STRING")]
        vectors = [o for o in config.output if o.data_type == _type(config, "TYPE_FP32") and len(o.dims) == 1]
        seconds = [o.name for o in config.output if o.data_type == _type(config, "TYPE_FP64")]
        texts = [o.name for o in config.output if o.data_type == _type(config, "TYPE_STRING")]
        for found, what in (
            (strings, "one BYTES input for the photo"),
            (vectors, "one FP32 output of one dimension for the embedding"),
            (texts, "one BYTES output for the error"),
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
            error_output=texts[0],
            seconds_output=seconds[0] if seconds else None,
            dimension=int(vectors[0].dims[0]),
            max_batch_size=int(config.max_batch_size),
            parameters={key: value.string_value for key, value in config.parameters.items()},
            steps=tuple(step.model_name for step in config.ensemble_scheduling.step),
        )

    def too_large(self, size: int) -> ItemError | None:
        """The error for a photo of `size` bytes that the server would reject; None for others.

        Called before the photo is loaded or sent.
        """
        most = int(self.parameters.get("max_bytes", defaults.MAX_PHOTO_BYTES))
        if size <= most:
            return None
        return ItemError("too_many_bytes", f"{size:,} bytes; the server accepts at most {most:,}")


def _type(config: Any, name: str) -> int:
    value: int = config.DESCRIPTOR.file.enum_types_by_name["DataType"].values_by_name[name].number
    return value


def collect(
    results: list[Embedding | ItemError], info: ModelInfo, on_error: Literal["raise", "return"]
) -> Embedding | list[Embedding | ItemError]:
    """The result of embed(): the list itself, or an array [N, D]. Raises the first ItemError for "raise"."""
    if on_error == "return":
        return results
    rows: list[Embedding] = []
    for entry in results:
        if isinstance(entry, ItemError):
            raise entry
        rows.append(entry)
    return np.stack(rows) if rows else np.empty((0, info.dimension), np.float32)


def request_bytes(
    info: ModelInfo, photos: Sequence[bytes], *, timed: bool = False, request_id: str = ""
) -> bytes:
    """A serialized ModelInferRequest for `photos` (at most the model's batch).

    The photos are most of it and are copied only once: the message is serialized without them, and the field
    that holds them, protobuf's last, is appended.
    """
    wanted = [info.embedding_output, info.error_output]
    if timed and info.seconds_output:
        wanted.append(info.seconds_output)
    head = pb.ModelInferRequest(
        model_name=info.name,
        id=request_id,
        inputs=[{"name": info.image_input, "datatype": "BYTES", "shape": [len(photos), 1]}],
        outputs=[{"name": name} for name in wanted],
    )
    parts = [head.SerializeToString(), _RAW_INPUT_CONTENTS, _varint(sum(4 + len(photo) for photo in photos))]
    for photo in photos:
        parts += (len(photo).to_bytes(4, "little"), photo)
    return b"".join(parts)


_RAW_INPUT_CONTENTS = bytes([pb.ModelInferRequest.RAW_INPUT_CONTENTS_FIELD_NUMBER << 3 | 2])
"""Protobuf's tag of that field: its number and the wire type for length-prefixed bytes."""


def _varint(number: int) -> bytes:
    """Protobuf's encoding of lengths: seven bits per byte, the lowest first."""
    groups = bytearray()
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*groups, number])


def read_answer(info: ModelInfo, result: InferResult) -> list[Embedding | ItemError]:
    """One entry per photo, in the order of the request."""
    rows = result.as_numpy(info.embedding_output)
    texts = result.as_numpy(info.error_output).reshape(-1)
    return [_read_row(row, text.decode("utf-8", "replace")) for row, text in zip(rows, texts, strict=True)]


def _read_row(row: Embedding, message: str) -> Embedding | ItemError:
    norm = float(np.linalg.norm(row))
    # Comparisons with NaN are false, so a NaN row is never valid.
    is_valid = abs(norm - 1.0) <= defaults.NORM_TOLERANCE
    if message:
        return ItemError.from_wire(message, embedding=row if is_valid else None)
    if not is_valid:
        return ItemError("bad_embedding", f"the server returned a vector of norm {norm:.4g} instead of 1")
    return row


def size_of(image: Image) -> int:
    """Bytes; 0 for a file that cannot be read, which read_photo() reports."""
    if isinstance(image, bytes):
        return len(image)
    try:
        return Path(image).stat().st_size
    except OSError:
        return 0


def read_photo(info: ModelInfo, image: Image) -> bytes | ItemError:
    """The encoded photo, or the error for a file that cannot be read or is too large."""
    if too_large := info.too_large(size_of(image)):
        return too_large
    if isinstance(image, bytes):
        return image
    try:
        return Path(image).read_bytes()
    except FileNotFoundError:
        return ItemError("not_found", f"{image} does not exist")
    except OSError as error:
        return ItemError("load_failed", f"{image}: {error.strerror}")


def filled(
    read: Sequence[bytes | ItemError], answers: Sequence[Embedding | ItemError]
) -> list[Embedding | ItemError]:
    """`read` with each photo replaced by its answer."""
    rest = iter(answers)
    return [next(rest) if isinstance(entry, bytes) else entry for entry in read]


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
