"""ClipClient: photos to embeddings over gRPC, with retries and an error for each photo that has one."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeVar, overload

from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from clip_client import defaults, transport
from clip_client._google import Retry, RetryError
from clip_client.errors import ItemError, ServerBusy, ServerMismatch, ServerUnavailable
from clip_client.pace import Pace
from clip_client.source import Source, open_source
from clip_client.stream import EmbeddedObject, stream
from clip_client.timings import ServerTimes, TimedAnswer, Timings, server_times
from clip_client.transport import ConnectionOptions, Embedding, ModelInfo

T = TypeVar("T")


class ClipClient:
    """A connection to a clip-triton server. Safe to use from several threads; close it, or use `with`.

    `deadline_s` bounds one request with all its retries; UNAVAILABLE (a server that sheds load, or
    restarts) is retried with jittered back-off until then. It begins when no more than `concurrency` other
    requests of this client are before it; while the server refuses load, waiting for that counts as well.
    """

    def __init__(
        self,
        url: str = defaults.URL,
        *,
        model: str = defaults.MODEL,
        connection: ConnectionOptions | None = None,
        deadline_s: float = defaults.DEADLINE_S,
        concurrency: int = defaults.CONCURRENCY,
        images_per_request: int = defaults.IMAGES_PER_REQUEST,
        bytes_per_request: int = defaults.BYTES_PER_REQUEST,
    ) -> None:
        self.url = url
        self._model = model
        self._deadline_s = deadline_s
        self._connection = connection or ConnectionOptions()
        self._images_per_request = images_per_request
        self._bytes_per_request = bytes_per_request
        self._concurrency = concurrency
        self._triton = InferenceServerClient(url, **self._connection.arguments())
        self._pool = ThreadPoolExecutor(concurrency, "clip-client")
        self._info: ModelInfo | None = None
        self._timings: Timings | None = None
        self._pace = Pace(concurrency)
        turns = threading.Lock()
        self._first, self._again = threading.Condition(turns), threading.Condition(turns)

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._triton.close()

    def __enter__(self) -> ClipClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def info(self) -> ModelInfo:
        """The model's names, dimension, largest batch and parameters, asked for once.

        Raises ServerUnavailable or ServerMismatch.
        """
        return self.wait(self._deadline_s)

    def wait(self, deadline_s: float) -> ModelInfo:
        """As `info`, waiting at most `deadline_s` for a server that is still starting."""
        if self._info is None:
            self._info = self._read_info(deadline_s)
        return self._info

    def _read_info(self, deadline_s: float) -> ModelInfo:
        def ask() -> Any:
            return self._triton.get_model_config(
                self._model, headers=self._connection.headers, client_timeout=deadline_s
            ).config

        try:
            return ModelInfo.from_config(self._retrying(ask, deadline_s))
        except InferenceServerException as error:
            raise ServerMismatch(f"the server at {self.url} does not serve {self._model}: {error}") from error

    @overload
    def embed(self, images: Sequence[bytes | Path | str]) -> Embedding: ...
    @overload
    def embed(self, images: Sequence[bytes | Path | str], *, on_error: Literal["raise"]) -> Embedding: ...
    @overload
    def embed(
        self, images: Sequence[bytes | Path | str], *, on_error: Literal["return"]
    ) -> list[Embedding | ItemError]: ...

    def embed(
        self, images: Sequence[bytes | Path | str], *, on_error: Literal["raise", "return"] = "raise"
    ) -> Embedding | list[Embedding | ItemError]:
        """Embeds encoded photos, given as bytes or as paths, in their order.

        Returns float32 [N, D], L2-normalised; raises the first photo's ItemError. With
        `on_error="return"` a list of N entries instead: a vector [D] or an ItemError. Raises
        ServerUnavailable and ServerMismatch in both cases.
        """
        info = self.info
        read = [read_photo(image) for image in images]
        results: list[Any] = list(read)
        readable = [index for index, data in enumerate(read) if isinstance(data, bytes)]
        photos = [data for data in read if isinstance(data, bytes)]
        limit = max(1, min(self._images_per_request, info.max_batch_size))
        groups = list(transport.chunks(photos, limit, self._bytes_per_request))
        answers = self._pool.map(lambda group: self.request([photos[i] for i in group]), groups)
        for group, answer in zip(groups, answers, strict=True):
            for index, entry in zip(group, answer, strict=True):
                results[readable[index]] = entry
        return transport.collect(results, info, on_error)

    def embed_objects(
        self, uri: str | Source, *, bytes_in_flight: int = defaults.BYTES_IN_FLIGHT
    ) -> Iterator[tuple[str, Embedding | ItemError]]:
        """Streams (name, vector or ItemError) for every object under `gs://bucket/prefix` or a folder.

        In the listing's order; at most `bytes_in_flight` bytes of photos are held at once. Raises
        SourceError where nothing can be listed, ServerUnavailable and ServerMismatch.
        """
        for item in self.embed_records(uri, bytes_in_flight=bytes_in_flight):
            yield item.name, item.outcome

    def embed_records(
        self, uri: str | Source, *, bytes_in_flight: int = defaults.BYTES_IN_FLIGHT
    ) -> Iterator[EmbeddedObject]:
        """As embed_objects, with each object's generation, size and CRC32C."""
        self.info  # noqa: B018 - a wrong server is refused before anything is downloaded
        source = open_source(uri, self._concurrency) if isinstance(uri, str) else uri
        on_load = self._timings.add_load if self._timings is not None else None
        return stream(
            source, lambda data: self.request([data])[0], self._concurrency, bytes_in_flight, on_load
        )

    @contextmanager
    def timed(self) -> Iterator[Timings]:
        """Measures the stages of all that this client does within the block.

        with client.timed() as timings:
            client.embed(photos)
        print(table(timings.stages()))
        """
        timings, before = Timings(), self._server_times()
        self._timings = timings
        try:
            yield timings
        finally:
            self._timings = None
            timings.set_server(before, self._server_times() if before else {})

    def _server_times(self) -> dict[str, ServerTimes]:
        """Of each composing model; empty where the server keeps its statistics to itself."""
        headers, timeout = self._connection.headers, self._deadline_s
        try:
            answers = [
                self._triton.get_inference_statistics(step, headers=headers, client_timeout=timeout)
                for step in self.info.steps
            ]
        except InferenceServerException:
            return {}
        return server_times(answers)

    def request(self, photos: Sequence[bytes]) -> list[Embedding | ItemError]:
        """One request, with retries: one entry a photo. Raises ServerUnavailable."""
        timings = self._timings
        answer = self._request(photos, timed=timings is not None)
        if timings is not None:
            timings.add(answer)
        return answer.outcomes

    def request_timed(self, photos: Sequence[bytes], request_id: str = "") -> TimedAnswer:
        """As request(), with what it took; `request_id` is its name in the server's traces."""
        return self._request(photos, timed=True, request_id=request_id)

    def _request(self, photos: Sequence[bytes], *, timed: bool, request_id: str = "") -> TimedAnswer:
        info = self.info
        inputs, outputs = transport.build_request(info, photos, timed=timed)
        begin, tries = time.perf_counter(), itertools.count()
        end = self._first_turn()

        def infer() -> Any:
            return self._triton.infer(
                info.name,
                inputs,
                outputs=outputs,
                request_id=request_id,
                headers=self._connection.headers,
                client_timeout=max(0.001, end - time.monotonic()),
            )

        def in_turn() -> Any:
            if next(tries):
                self._another_turn(end)
            return self._answered(infer)

        try:
            answer = self._retrying(in_turn, self._deadline_s, end - time.monotonic())
            return TimedAnswer.of(info, answer, time.perf_counter() - begin)
        except InferenceServerException as error:
            return TimedAnswer(transport.refused(error, len(photos)), time.perf_counter() - begin)

    def _first_turn(self) -> float:
        """Waits until the pace allows another request; returns when that one's time is up.

        Raises ServerUnavailable where the server has given no sign of ease for `deadline_s`.
        """
        ready = time.monotonic()
        with self._first:
            while (left := self._pace.waits_since(ready) + self._deadline_s - time.monotonic()) > 0:
                if self._pace.is_open:
                    self._pace.begin()
                    return time.monotonic() + left
                self._first.wait(left)
            raise late(self.url, self._deadline_s, self._pace)

    def _another_turn(self, end: float) -> None:
        """As _first_turn for a retry, before those that have not been tried; raises ServerBusy at `end`."""
        with self._again:
            if not self._again.wait_for(lambda: self._pace.is_open, max(0.0, end - time.monotonic())):
                raise busy(self.url, self._deadline_s)
            self._pace.begin()

    def _answered(self, call: Callable[[], T]) -> T:
        """What `call` returns or raises; then its turn is over."""
        refused = answered = False
        try:
            result = call()
            answered = True
            return result
        except InferenceServerException as error:
            refused, answered = transport.is_refusal(error), not transport.is_away(error)
            raise
        finally:
            with self._first:
                self._pace.end(refused=refused, answered=answered)
                for waiting in (self._again, self._first):
                    waiting.notify(2)  # one for the place, one should the limit have grown

    def _retrying(self, call: Callable[[], T], deadline_s: float, left_s: float | None = None) -> T:
        """`left_s`: of the deadline, where some of it is over."""
        retry = Retry(**transport.retry_arguments(deadline_s if left_s is None else left_s))
        try:
            return retry(call)()
        except RetryError as error:
            raise unavailable(self.url, deadline_s, error.cause) from error
        except InferenceServerException as error:
            if transport.is_denied(error):
                raise denied(self.url, error) from error
            if transport.is_away(error):
                raise unavailable(self.url, deadline_s, error) from error
            raise


def late(url: str, deadline_s: float, pace: Pace) -> ServerUnavailable:
    """The error for a request that had no turn, as those before it were refused or not answered."""
    if pace.is_held_back:
        return busy(url, deadline_s)
    return unavailable(url, deadline_s, "nor to the requests before this one")


def unavailable(url: str, deadline_s: float, cause: object) -> ServerUnavailable:
    """The error for a server that has not answered, `cause` being the last try's."""
    if isinstance(cause, Exception) and transport.is_refusal(cause):
        return busy(url, deadline_s)
    return ServerUnavailable(
        f"no answer from the server at {url} within {deadline_s:.0f} s ({cause}). {_advice(str(cause))}"
    )


def _advice(cause: str) -> str:
    if "handshake" in cause:
        return "Do the certificates fit? Give the server's with --root-certificates (ConnectionOptions)"
    if "Socket closed" in cause or "reset by peer" in cause:
        return "It hangs up: has it ended, or does it want TLS (--ssl) or a certificate of yours?"
    return "Is it running? Start one with: clip-serve --repository DIR"


def denied(url: str, cause: InferenceServerException) -> ServerUnavailable:
    return ServerUnavailable(
        f"the server at {url} turns this client away ({cause}). Does it want a header? "
        "Give one with ConnectionOptions(headers=...), or clip-embed --header NAME:VALUE"
    )


def busy(url: str, deadline_s: float) -> ServerBusy:
    return ServerBusy(
        f"the server at {url} was too busy for {deadline_s:.0f} s: its queue stayed full. Send fewer photos "
        "at once, or give it more instances"
    )


def read_photo(image: bytes | Path | str) -> bytes | ItemError:
    """The encoded photo, or why its file cannot be read."""
    if isinstance(image, bytes):
        return image
    try:
        return Path(image).read_bytes()
    except FileNotFoundError:
        return ItemError("not_found", f"{image} does not exist")
    except OSError as error:
        return ItemError("load_failed", f"{image}: {error.strerror}")
