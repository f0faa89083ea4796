"""ClipClient: embeds photos over gRPC, with retries and an error for each photo that cannot be embedded."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, ClassVar, Literal, overload

import grpc

from clip_client import defaults
from clip_client.errors import ItemError
from clip_client.photos import Image, as_list, read_photo, size_of
from clip_client.placement import CLIENT, SERVER, local_decoder, require_placement
from clip_client.requests import wire
from clip_client.requests.channel import ConnectionOptions, Transport, addresses
from clip_client.requests.drivers import run
from clip_client.requests.flow import Flow
from clip_client.requests.placements import DecodeSide, LocalSide, PixelPlacement, TierSide, wait_for
from clip_client.requests.retry import RetryEngine
from clip_client.requests.servers import Servers, ServerStatus
from clip_client.requests.wire import Embedding, ModelInfo
from clip_client.results import PhotoResult
from clip_client.sinks.base import EmbeddedObject
from clip_client.sources import open_source
from clip_client.sources.base import Source, SourceOptions
from clip_client.stream import stream
from clip_client.threads import DaemonExecutor
from clip_client.timings import ServerTimes, TimedAnswer, Timings

READY_TIMEOUT_S = 2.0
NO_TEXT = "Export the model with its text tower: clip-export --towers image,text"


MAX_DEADLINE_S = 30 * 24 * 3600.0
"""Waits of threads and gRPC overflow with far longer ones."""


def positive(name: str, value: float, most: float = math.inf) -> float:
    """`value`. Raises ValueError, which names the argument, if it is not above 0 or is too large."""
    if not 0 < value < math.inf or value > most:
        bound = f" of at most {most:,.0f}" if most < math.inf else ""
        raise ValueError(f"{name} must be a positive number{bound}, not {value!r}")
    return value


def _text_model_of(model: str) -> str:
    """`clip_text` beside `clip_image`, `clip_text_large` beside `clip_image_large`."""
    is_ours = model.startswith(defaults.MODEL)
    return defaults.TEXT_MODEL + model.removeprefix(defaults.MODEL) if is_ours else defaults.TEXT_MODEL


class BaseClient:
    """The options and properties that ClipClient and AsyncClipClient share.

    A client is connected to the server at `url` ("host:port", or any gRPC name) with `connection`'s TLS and
    headers, or through another `transport`. With several addresses, each request goes to the server that is
    expected to answer first, and those of a server that fails or stalls to the others. All must have the same
    model and settings: ServerMismatch names two that differ, at the first call or when one comes back.

    `model` embeds photos. Texts are embedded by the one beside it, `clip_text_large` for `clip_image_large`,
    unless `text_model` is given.

    `deadline_s` bounds one request with all its retries. UNAVAILABLE (the server sheds load, or restarts) is
    retried with jittered exponential backoff until then. The deadline starts when at most `concurrency`
    other requests to each server are ahead of it; while the servers are overloaded, waiting counts as well.

    One call to embed() is split into requests of at most `images_per_request` photos (at most the model's
    largest batch) and `bytes_per_request` bytes; a larger photo is sent alone.

    `decode="client"` decodes photos in this process, on as many threads as it has cores, with the settings of
    the server, and sends pixels. Results are the same. It needs the extra `decode`: MissingExtra is raised
    without it, and ServerMismatch at the first call to a server whose pixels this process cannot compute.

    `decode="host:port"` sends photos to another server, or to several, which decode them, and their pixels to
    `url`. The connection to them has the same TLS files and headers, or is `decode_transport`. Each of the
    two steps has the whole deadline. ServerMismatch is raised at the first call if they do not fit together.
    """

    _grpc: ClassVar[Any] = grpc
    _event: ClassVar[type[Any]] = threading.Event
    _wait_for: ClassVar[Any] = staticmethod(wait_for)

    def __init__(
        self,
        url: str | Sequence[str] = defaults.URL,
        *,
        model: str = defaults.MODEL,
        text_model: str | None = None,
        connection: ConnectionOptions | None = None,
        deadline_s: float = defaults.DEADLINE_S,
        concurrency: int = defaults.CONCURRENCY,
        images_per_request: int = defaults.IMAGES_PER_REQUEST,
        bytes_per_request: int = defaults.BYTES_PER_REQUEST,
        decode: str | Sequence[str] = defaults.DECODE,
        transport: Transport | None = None,
        decode_transport: Transport | None = None,
    ) -> None:
        urls = addresses(url, ssl=connection is not None and connection.ssl)
        require_placement(decode)
        deadline_s = positive("deadline_s", deadline_s, MAX_DEADLINE_S)
        for name, value in (
            ("concurrency", concurrency),
            ("images_per_request", images_per_request),
            ("bytes_per_request", bytes_per_request),
        ):
            positive(name, value)
        if transport is not None and len(urls) > 1:
            raise ValueError("transport is for a single url")
        connection = connection or ConnectionOptions()
        self.url = ", ".join(urls)
        self._model, self._text_model = model, text_model or _text_model_of(model)
        self._deadline_s = deadline_s
        self._concurrency = concurrency * len(urls)
        self._images_per_request = images_per_request
        self._bytes_per_request = bytes_per_request
        transports = {each: transport or connection.open(each, self._grpc) for each in urls}
        self._engine = RetryEngine(Servers(transports, concurrency), deadline_s, self._event)
        self._threads = DaemonExecutor(self._concurrency, "clip-client")
        self._placement = self._placement_of(decode, connection, decode_transport, concurrency)
        self._info: ModelInfo | None = None
        self._text_info: ModelInfo | None = None
        self._timings: Timings | None = None

    def _placement_of(
        self,
        decode: str | Sequence[str],
        connection: ConnectionOptions,
        transport: Transport | None,
        concurrency: int,
    ) -> PixelPlacement | None:
        """None if the server decodes."""
        if decode == SERVER:
            return None
        side: DecodeSide
        if decode == CLIENT:
            side = LocalSide(self._engine, local_decoder(), self._wait_for)
        else:
            urls = addresses(decode, ssl=connection.ssl)
            transports = {each: transport or connection.open(each, self._grpc) for each in urls}
            engine = RetryEngine(Servers(transports, concurrency), self._deadline_s, self._event)
            side = TierSide(engine, self._model)
        return PixelPlacement(self._engine, side, self._model, self._event)

    @property
    def dead_processes(self) -> frozenset[str]:
        """The servers' processes that this client found dead and that were not restarted since."""
        decoding = [] if self._placement is None else self._placement.side.servers
        return self._engine.servers.dead_processes.union(*(each.dead_processes.names for each in decoding))

    @property
    def servers(self) -> tuple[ServerStatus, ...]:
        """What this client knows of each server, in the order of `url`."""
        return self._engine.servers.statuses()

    @property
    def _transports(self) -> list[Transport]:
        """To the servers of `url`, and to those that decode for them."""
        decoding = [] if self._placement is None else self._placement.side.servers
        return [server.transport for server in (*self._engine.servers.all, *decoding)]

    def _connect(self, deadline_s: float, *, starting: bool = False) -> Flow[ModelInfo]:
        """Reads what the server says about its models. Raises ServerUnavailable and ServerMismatch."""
        if self._placement is not None:
            return (yield from self._placement.connect(deadline_s, starting=starting))
        return (yield from self._engine.model_info(self._model, deadline_s, starting=starting))

    def _embedding(
        self, info: ModelInfo, photos: Sequence[bytes], *, timed: bool, request_id: str = ""
    ) -> Flow[TimedAnswer]:
        """Embeds at most a batch of encoded photos, wherever they are decoded. Raises ServerUnavailable."""
        place = self._placement
        if place is not None:
            return place.request(photos, timed=timed, request_id=request_id)
        return self._engine.request(info, photos, timed=timed, request_id=request_id)

    def _statistics(self, info: ModelInfo) -> Flow[dict[str, ServerTimes]]:
        """Of all models that photos pass; empty if a server does not report them."""
        return self._engine.statistics(info) if self._placement is None else self._placement.statistics()

    def _close_waits(self) -> None:
        """Ends what waits for a slot or a thread."""
        self._engine.slots.close()
        if self._placement is not None:
            self._placement.side.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _groups(self, images: Sequence[Image], info: ModelInfo) -> list[list[Image]]:
        """The photos of each request of one call."""
        limit = max(1, min(self._images_per_request, info.max_batch_size))
        sizes = [size_of(image) for image in images]
        return [[images[i] for i in group] for group in wire.chunks(sizes, limit, self._bytes_per_request)]

    def _text_groups(self, texts: Sequence[str], info: ModelInfo) -> list[list[bytes]]:
        """The encoded texts of each request. Raises TypeError for a text that is not in a list."""
        if isinstance(texts, str):
            raise TypeError("texts must be a list of strings. For one text, write embed_text([text])")
        encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
        most = max(1, info.max_batch_size)
        return [encoded[begin : begin + most] for begin in range(0, len(encoded), most)]

    def _open(self, source: str | os.PathLike[str] | Source) -> Source:
        if isinstance(source, str | os.PathLike):
            return open_source(source, SourceOptions(connections=self._concurrency))
        return source


class ClipClient(BaseClient):
    """A connection to clip-triton servers; close it, or use `with`. Safe to use from several threads."""

    def close(self) -> None:
        """Ends requests in flight and waiting ones."""
        self._close_waits()
        for transport in self._transports:
            transport.close()

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
        """The model's names, dimension, largest batch and parameters. Read from the server once.

        Raises ServerUnavailable, at once if nothing listens at the address, or ServerMismatch.
        """
        if self._info is None:
            self._info = run(self._connect(self._deadline_s))
        return self._info

    def wait(self, deadline_s: float) -> ModelInfo:
        """Like `info`, but waits at most `deadline_s` for a server that is still starting."""
        if self._info is None:
            deadline_s = positive("deadline_s", deadline_s, MAX_DEADLINE_S)
            self._info = run(self._connect(deadline_s, starting=True))
        return self._info

    @overload
    def embed(self, images: Iterable[Image]) -> Embedding: ...
    @overload
    def embed(self, images: Iterable[Image], *, on_error: Literal["raise"]) -> Embedding: ...
    @overload
    def embed(
        self, images: Iterable[Image], *, on_error: Literal["return"]
    ) -> list[Embedding | ItemError]: ...

    def embed(
        self, images: Iterable[Image], *, on_error: Literal["raise", "return"] = "raise"
    ) -> Embedding | list[Embedding | ItemError]:
        """Embeds encoded photos: bytes, paths, or files opened in binary mode.

        Returns float32 [N, D] in the order of `images`, L2-normalized, or raises the first photo's ItemError.
        With `on_error="return"`, returns a list of N entries instead: a vector [D] or an ItemError. Raises
        ServerUnavailable and ServerMismatch in both cases.
        """
        return wire.collect(self.embed_photos(images), self.info, on_error)

    def embed_photos(self, images: Iterable[Image]) -> list[PhotoResult]:
        """Like embed(), with all that is known about each photo: notices, format, sides, decode scale.

        Returns N results in the order of `images`; a photo that fails has its error in its result.
        """
        self._engine.require_open()
        photos = as_list(images)
        groups = self._groups(photos, self.info)
        try:
            return [result for answer in self._threads.map(self._embed_group, groups) for result in answer]
        except (CancelledError, RuntimeError):  # the pool's errors if close() comes before a group's turn
            self._engine.require_open()
            raise

    @property
    def text_info(self) -> ModelInfo:
        """Like `info`, of the text tower. Raises ServerMismatch if the server has none."""
        if self._text_info is None:
            flow = self._engine.model_info(self._text_model, self._deadline_s, NO_TEXT)
            self._text_info = run(flow)
        return self._text_info

    def embed_text(self, texts: Sequence[str]) -> Embedding:
        """Embeds texts into the space of the photos: the dot product of a text and a photo is their cosine.

        Returns float32 [N, D] in the order of `texts`, L2-normalized, or raises the first text's ItemError.
        Like open_clip, cuts off what a text tower cannot read of a long text; embed_text_results() says so.
        Raises ServerMismatch if the server has no text tower, and ServerUnavailable.
        """
        return wire.stacked(self.embed_text_results(texts), self.text_info)

    def embed_text_results(self, texts: Sequence[str]) -> list[PhotoResult]:
        """Like embed_text(), with each text's own error and notices; the facts about photos are None."""
        self._engine.require_open()
        info = self.text_info
        answers = [run(self._engine.request(info, group)) for group in self._text_groups(texts, info)]
        return [result for answer in answers for result in answer.results]

    def _embed_group(self, images: Sequence[Image]) -> list[PhotoResult]:
        """Embeds one request's images; files are read just before it is sent."""
        read = [read_photo(self.info, image) for image in images]
        photos = [entry for entry in read if isinstance(entry, bytes)]
        return wire.filled(read, self._request(photos) if photos else [])

    def embed_objects(
        self, uri: str | os.PathLike[str] | Source, *, bytes_in_flight: int = defaults.BYTES_IN_FLIGHT
    ) -> Iterator[tuple[str, Embedding | ItemError]]:
        """Yields (name, vector or ItemError) for every object under `gs://bucket/prefix` or a folder.

        Keeps the order of the listing, with at most `bytes_in_flight` bytes of photos in memory. Raises
        SourceError if nothing can be listed, ServerUnavailable and ServerMismatch.
        """
        for item in self.embed_records(uri, bytes_in_flight=bytes_in_flight):
            yield item.name, item.outcome

    def embed_records(
        self,
        uri: str | os.PathLike[str] | Source,
        *,
        bytes_in_flight: int = defaults.BYTES_IN_FLIGHT,
        on_abort: Callable[[], None] | None = None,
    ) -> Generator[EmbeddedObject, None, None]:
        """Like embed_objects(), with each object's generation, size and CRC32C, and its PhotoResult.

        Closing the generator early waits some seconds for requests in flight; `on_abort=client.close` ends
        them. It does not wait for objects that are being loaded.
        """
        info = self.info  # rejects a wrong server before anything is downloaded
        return stream(
            self._open(uri),
            lambda data: self._request([data])[0],
            self._concurrency,
            bytes_in_flight,
            too_large=info.too_large,
            max_bytes=info.unpacked_bytes,
            on_load=self._timings.add_load if self._timings is not None else None,
            on_abort=on_abort,
        )

    @contextmanager
    def timed(self) -> Iterator[Timings]:
        """Measures the stages of everything that this client does within the block.

        with client.timed() as timings:
            client.embed(photos)
        print(table(timings.stages()))
        """
        timings, info = Timings(), self.info
        before = run(self._statistics(info))
        self._timings = timings
        try:
            yield timings
        finally:
            self._timings = None
            timings.set_server(before, run(self._statistics(info)) if before else {})

    def is_unready(self) -> bool:
        """Whether a server reports that it is not ready; since Triton 26.04 also if a process is dead."""
        for transport in self._transports:
            with suppress(grpc.RpcError):
                if not transport.ready(READY_TIMEOUT_S).ready:
                    return True
        return False

    def request(self, photos: Sequence[bytes]) -> list[Embedding | ItemError]:
        """Sends one request, with retries. Returns one entry per photo; raises ServerUnavailable."""
        return [result.outcome for result in self._request(photos)]

    def _request(self, photos: Sequence[bytes]) -> list[PhotoResult]:
        timings = self._timings
        answer = run(self._embedding(self.info, photos, timed=timings is not None))
        if timings is not None:
            timings.add(answer)
        return answer.results

    def request_timed(self, photos: Sequence[bytes], request_id: str = "") -> TimedAnswer:
        """Like request(), with its times. `request_id` names it in the server's traces."""
        return run(self._embedding(self.info, photos, timed=True, request_id=request_id))
