"""What the sync and the async client share: requests, answers, retries, and the server's metadata."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from tritonclient.grpc import InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from clip_client import defaults
from clip_client.errors import ItemError, ServerMismatch, ServerUnavailable

Embedding = npt.NDArray[np.float32]

CHANNEL_ARGUMENTS: list[tuple[str, Any]] = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # A restarted server is found again within seconds, not within gRPC's default two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
]


@dataclass(frozen=True)
class ConnectionOptions:
    """How to reach a server. `headers` go with every call, in any case; the file paths are PEM."""

    ssl: bool = False
    root_certificates: Path | None = None
    private_key: Path | None = None
    certificate_chain: Path | None = None
    headers: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # gRPC refuses a header with a capital letter, whatever HTTP says of them.
        lowered = {name.lower(): value for name, value in self.headers.items()}
        object.__setattr__(self, "headers", lowered)

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of tritonclient's InferenceServerClient.

        Raises ServerUnavailable for a file that cannot be read: there is no connection without it.
        """
        files = {
            "root_certificates": self.root_certificates,
            "private_key": self.private_key,
            "certificate_chain": self.certificate_chain,
        }
        paths = {name: str(path) for name, path in files.items() if path is not None}
        for name, path in paths.items():
            _must_be_readable(name, path)
        return {"ssl": self.ssl, "channel_args": CHANNEL_ARGUMENTS, **paths}


def _must_be_readable(name: str, path: str) -> None:
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise ServerUnavailable(f"{name.replace('_', ' ')} {path}: {error.strerror}") from error


@dataclass(frozen=True)
class ModelInfo:
    """What the server says of its model."""

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
    """FP64 [2], decode and preprocess; None where the server does not measure them."""

    @classmethod
    def from_config(cls, config: Any) -> ModelInfo:
        """From Triton's ModelConfig message; raises ServerMismatch that names what does not fit."""
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
                    f"the model {config.name!r} is not clip-triton's: it should have {what} and has "
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


def _type(config: Any, name: str) -> int:
    value: int = config.DESCRIPTOR.file.enum_types_by_name["DataType"].values_by_name[name].number
    return value


_PASSING = (
    "Stub process",  # a Python-backend process died; whoever watches the server renews it
    "is not healthy",
    "has no available versions",  # the server is loading its models, or putting them away
    "Server is stopping",
    "stopped accepting",
)


def is_retryable(error: Exception) -> bool:
    """Shed load and a server that is away, starting, stopping or about to be renewed.

    Triton answers only the first two with UNAVAILABLE; the others are known by their text.
    """
    if not isinstance(error, InferenceServerException) or is_denied(error):
        return False
    message = str(error.message())
    return error.status() == "StatusCode.UNAVAILABLE" or any(text in message for text in _PASSING)


class Retryable:
    """is_retryable() for one request, which gives up on photos that Python processes keep dying of."""

    def __init__(self) -> None:
        self._deaths = 0

    def __call__(self, error: Exception) -> bool:
        if isinstance(error, InferenceServerException) and "Stub process" in str(error.message()):
            self._deaths += 1
        return is_retryable(error) and self._deaths < defaults.MAX_DEATHS


def is_refusal(error: Exception) -> bool:
    """A server behind its load: these are Triton's words for a full queue."""
    return "Exceeds maximum queue size" in str(error)


def is_away(error: Exception) -> bool:
    """No server, or none in time: other photos would fare no better."""
    return isinstance(error, InferenceServerException) and error.status() in (
        "StatusCode.UNAVAILABLE",
        "StatusCode.DEADLINE_EXCEEDED",
    )


def is_denied(error: Exception) -> bool:
    """A server, or a gateway before it, that answers and turns this client away: no retry mends that.

    Triton says UNAVAILABLE of a restricted protocol whose header is missing or wrong.
    """
    return isinstance(error, InferenceServerException) and (
        error.status() in ("StatusCode.UNAUTHENTICATED", "StatusCode.PERMISSION_DENIED")
        or "protocol is restricted" in str(error.message())
    )


def retry_arguments(deadline_s: float) -> dict[str, Any]:
    """Jittered exponential back-off, for google.api_core's Retry and AsyncRetry alike."""
    return {
        "predicate": Retryable(),
        "initial": defaults.RETRY_INITIAL_S,
        "maximum": defaults.RETRY_MAXIMUM_S,
        "timeout": deadline_s,
    }


def refused(error: InferenceServerException, count: int) -> list[Embedding | ItemError]:
    """A request that failed as a whole, for a reason that no retry mends: an error for each photo."""
    text = f"the server refused the request: {error.message()}"
    return [ItemError("request_failed", text) for _ in range(count)]


def collect(
    results: list[Embedding | ItemError], info: ModelInfo, on_error: Literal["raise", "return"]
) -> Embedding | list[Embedding | ItemError]:
    """embed()'s answer: the list itself, or one array [N, D]; raises the first ItemError for the latter."""
    if on_error == "return":
        return results
    rows: list[Embedding] = []
    for entry in results:
        if isinstance(entry, ItemError):
            raise entry
        rows.append(entry)
    return np.stack(rows) if rows else np.empty((0, info.dimension), np.float32)


def build_request(
    info: ModelInfo, photos: Sequence[bytes], *, timed: bool = False
) -> tuple[list[InferInput], list[InferRequestedOutput]]:
    """Inputs and outputs of one infer call for `photos` (at most the model's batch)."""
    array = np.empty((len(photos), 1), np.object_)
    array[:, 0] = photos
    image = InferInput(info.image_input, list(array.shape), "BYTES")
    image.set_data_from_numpy(array)
    wanted = [info.embedding_output, info.error_output]
    if timed and info.seconds_output:
        wanted.append(info.seconds_output)
    return [image], [InferRequestedOutput(name) for name in wanted]


def read_answer(info: ModelInfo, result: Any) -> list[Embedding | ItemError]:
    """One entry a photo, in the request's order."""
    rows = result.as_numpy(info.embedding_output)
    texts = result.as_numpy(info.error_output).reshape(-1)
    return [_read_row(row, text.decode("utf-8", "replace")) for row, text in zip(rows, texts, strict=True)]


def _read_row(row: Embedding, message: str) -> Embedding | ItemError:
    norm = float(np.linalg.norm(row))
    # A comparison with NaN is false, so that a NaN row is never taken for an embedding.
    sound = abs(norm - 1.0) <= defaults.NORM_TOLERANCE
    if message:
        return ItemError.from_wire(message, embedding=row if sound else None)
    if not sound:
        return ItemError("bad_embedding", f"the server's vector has the norm {norm:.4g}, not 1")
    return row


def chunks(photos: Sequence[bytes], limit: int, max_bytes: int) -> Iterator[list[int]]:
    """Indices of `photos` for one request each: at most `limit` photos and `max_bytes` bytes.

    A photo that is larger than `max_bytes` travels alone.
    """
    chunk: list[int] = []
    size = 0
    for index, photo in enumerate(photos):
        if chunk and (len(chunk) == limit or size + len(photo) > max_bytes):
            yield chunk
            chunk, size = [], 0
        chunk.append(index)
        size += len(photo)
    if chunk:
        yield chunk
