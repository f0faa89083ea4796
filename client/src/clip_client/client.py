"""ClipClient: photos to embeddings over gRPC, with retries and an error for each photo that has one."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Literal, overload

import grpc
from tritonclient.grpc import InferResult

from clip_client import defaults
from clip_client.errors import ItemError, ServerMismatch
from clip_client.requests import wire
from clip_client.requests.channel import Calls, ConnectionOptions
from clip_client.requests.failures import late, refused, unavailable
from clip_client.requests.in_flight import Turns
from clip_client.requests.retry import Attempts, Deaths, Failure, Verdict
from clip_client.requests.wire import Embedding, Image, ModelInfo
from clip_client.sinks.base import EmbeddedObject
from clip_client.sources import open_source
from clip_client.sources.base import Source
from clip_client.stream import stream
from clip_client.timings import ServerTimes, TimedAnswer, Timings, server_times

_READY_TIMEOUT_S = 2.0


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
        self._channel = self._connection.channel(url)
        self._calls = Calls(self._channel, self._connection.headers)
        self._pool = ThreadPoolExecutor(concurrency, "clip-client")
        self._turns = Turns(concurrency)
        self._deaths = Deaths()
        self._info: ModelInfo | None = None
        self._timings: Timings | None = None

    def close(self) -> None:
        """Ends what is in flight."""
        self._turns.close()
        self._channel.close()
        self._pool.shutdown(cancel_futures=True)

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
        end, attempts = time.monotonic() + deadline_s, Attempts(Deaths())
        while True:
            try:
                answer = self._calls.config(self._model, max(0.001, end - time.monotonic()))
                return ModelInfo.from_config(answer.config)
            except grpc.RpcError as error:
                failure = Failure.of(error)
            pause = attempts.pause_s()
            if not failure.is_passing or time.monotonic() + pause > end:
                raise unavailable(self.url, deadline_s, failure) or ServerMismatch(
                    f"the server at {self.url} does not serve {self._model}: {failure}"
                )
            self._turns.rest(pause)

    @overload
    def embed(self, images: Sequence[Image]) -> Embedding: ...
    @overload
    def embed(self, images: Sequence[Image], *, on_error: Literal["raise"]) -> Embedding: ...
    @overload
    def embed(
        self, images: Sequence[Image], *, on_error: Literal["return"]
    ) -> list[Embedding | ItemError]: ...

    def embed(
        self, images: Sequence[Image], *, on_error: Literal["raise", "return"] = "raise"
    ) -> Embedding | list[Embedding | ItemError]:
        """Embeds encoded photos, given as bytes or as paths, in their order.

        Returns float32 [N, D], L2-normalised; raises the first photo's ItemError. With
        `on_error="return"` a list of N entries instead: a vector [D] or an ItemError. Raises
        ServerUnavailable and ServerMismatch in both cases.
        """
        info = self.info
        limit = max(1, min(self._images_per_request, info.max_batch_size))
        sizes = [wire.size_of(image) for image in images]
        groups = list(wire.chunks(sizes, limit, self._bytes_per_request))
        answers = self._pool.map(lambda group: self._embed_group([images[i] for i in group]), groups)
        return wire.collect([entry for answer in answers for entry in answer], info, on_error)

    def _embed_group(self, images: Sequence[Image]) -> list[Embedding | ItemError]:
        """In one request; files are read no sooner than that."""
        read = [wire.read_photo(self.info, image) for image in images]
        photos = [entry for entry in read if isinstance(entry, bytes)]
        return wire.filled(read, self.request(photos) if photos else [])

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
        self,
        uri: str | Source,
        *,
        bytes_in_flight: int = defaults.BYTES_IN_FLIGHT,
        on_abort: Callable[[], None] | None = None,
    ) -> Generator[EmbeddedObject, None, None]:
        """As embed_objects, with each object's generation, size and CRC32C.

        Whoever stops before the last one waits for the requests in flight; close() as `on_abort` ends them.
        """
        info = self.info  # a wrong server is refused before anything is downloaded
        return stream(
            open_source(uri, self._concurrency) if isinstance(uri, str) else uri,
            lambda data: self.request([data])[0],
            self._concurrency,
            bytes_in_flight,
            too_large=info.too_large,
            on_load=self._timings.add_load if self._timings is not None else None,
            on_abort=on_abort,
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

    @property
    def dead_processes(self) -> frozenset[str]:
        """Those of the server that requests of this client have found dead, and not renewed since."""
        return frozenset(self._deaths.known)

    def is_unready(self) -> bool:
        """Whether the server says so; from Triton 26.04 on it does when one of its processes is dead."""
        try:
            return not self._calls.ready(_READY_TIMEOUT_S).ready
        except grpc.RpcError:
            return False

    def _server_times(self) -> dict[str, ServerTimes]:
        """Of each composing model; empty where the server keeps its statistics to itself."""
        try:
            return server_times([self._calls.statistics(step, self._deadline_s) for step in self.info.steps])
        except (grpc.RpcError, ValueError):  # the latter is gRPC's for a client that was closed meanwhile
            return {}

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

    def _request(
        self, photos: Sequence[bytes], *, timed: bool = False, request_id: str = "", alone: bool = False
    ) -> TimedAnswer:
        """`alone`: nothing else is to be in flight, as one of these photos may be a server's death."""
        begin = time.perf_counter()
        data = wire.request_bytes(self.info, photos, timed=timed, request_id=request_id)
        # A group's death is proof enough to try each photo by itself.
        proof = defaults.MAX_DEATHS if len(photos) == 1 else 1
        attempts = Attempts(self._deaths, alone=alone, proof=proof)
        answer, waited_s = self._answer(data, attempts)
        if not isinstance(answer, Failure):
            return TimedAnswer.of(self.info, InferResult(answer), time.perf_counter() - begin, waited_s)
        if answer.is_death and len(photos) > 1:  # of one of them
            rows = [row for photo in photos for row in self._request([photo], alone=True).outcomes]
        else:
            rows = [*refused(answer, len(photos))]
        return TimedAnswer(rows, time.perf_counter() - begin, None, waited_s)

    def _answer(self, request: bytes, attempts: Attempts) -> tuple[Any, float]:
        """The server's answer, or the Failure that is about these photos; seconds before its last try.

        Raises ServerUnavailable.
        """
        begin, end = time.perf_counter(), self._first_turn(attempts)
        while True:
            waited_s, alone = time.perf_counter() - begin, attempts.alone
            answer = self._try(request, end, attempts)
            if not isinstance(answer, Failure) or attempts.verdict is Verdict.BLAME:
                return answer, waited_s
            pause = attempts.pause_s()
            if attempts.verdict is Verdict.RETRY and time.monotonic() + pause < end:
                self._turns.rest(pause)
                if attempts.alone and not alone:  # its time begins anew: it has to wait for its like
                    end = self._first_turn(attempts)
                    continue
                if self._turns.again(end, alone=attempts.alone):
                    continue
            if error := unavailable(self.url, self._deadline_s, answer):
                raise error
            return answer, waited_s

    def _first_turn(self, attempts: Attempts) -> float:
        end = self._turns.first(self._deadline_s, alone=attempts.alone)
        if end is None:
            raise late(self.url, self._deadline_s, self._turns.pace)
        return end

    def _try(self, request: bytes, end: float, attempts: Attempts) -> Any:
        """The server's answer, or a Failure that is judged; then the turn is over."""
        refused = answered = False
        try:
            answer = self._calls.infer(request, max(0.001, end - time.monotonic()))
            answered = True
            return answer
        except grpc.RpcError as error:
            failure = Failure.of(error)
            attempts.judge(failure)
            refused, answered = failure.is_refusal, not failure.is_away
            return failure
        finally:
            self._turns.over(refused=refused, answered=answered)
