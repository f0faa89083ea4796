"""Embedding in two steps: photos become pixels, here or on another server, and pixels go to the encoder.

A DecodeSide is where the first step happens. Its servers and the encoder's have a RetryEngine each, so that
one that sheds load, restarts or crashes is retried, and blames a photo, by itself.
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
import numpy.typing as npt

from clip_client import defaults
from clip_client.errors import ItemError, ServerMismatch
from clip_client.requests.flow import Call, Flow
from clip_client.requests.packing import PixelPacker
from clip_client.requests.pixels import DecodedPhoto, EncoderInfo, PreprocessInfo
from clip_client.requests.retry import RetryEngine
from clip_client.requests.servers import Server
from clip_client.requests.slots import Event
from clip_client.requests.wire import ModelInfo
from clip_client.results import PhotoResult
from clip_client.timings import ServerTimes, TimedAnswer

_RENDER_AGAIN = "Update the server, and render its repository again with clip-render"
_LIMITS = {"max_bytes", "max_pixels", "decode_timeout_s"}
"""Preprocess settings that decide which photos have pixels in time, but not what these are."""
_START_TIER = "Start a server for it with: clip-serve --tier decode --repository DIR"


@dataclass(frozen=True)
class Decoded:
    """The photos of one request after the first step, and its times; see TimedAnswer."""

    photos: Sequence[DecodedPhoto]
    seconds: float
    photo_s: npt.NDArray[np.float64] | None
    waited_s: float


class DecodeSide(Protocol):
    """Where photos become pixels."""

    def connect(self, encoder: EncoderInfo, url: str, deadline_s: float, *, starting: bool) -> Flow[int]:
        """Returns the most photos of one request, 0 for any number.

        Raises ServerMismatch if it does not compute the pixels that the `encoder` at `url` states, and
        ServerUnavailable.
        """

    def decode(self, photos: Sequence[bytes], *, timed: bool, request_id: str) -> Flow[Decoded]:
        """One entry per photo. Raises ServerUnavailable."""

    def statistics(self) -> Flow[dict[str, ServerTimes]]:
        """Of the server that decodes, by model; empty if none does or it does not report any."""

    @property
    def limits(self) -> Mapping[str, str]:
        """Its limits for a photo, as parameters of a model."""

    @property
    def servers(self) -> Sequence[Server]:
        """Those that decode; none if this process does."""

    def close(self) -> None:
        """Ends what is waiting and in flight, except for the transport's calls."""


class PixelPlacement:
    """Decodes on `side`, and sends pixels to the encoder behind `engine`."""

    def __init__(self, engine: RetryEngine, side: DecodeSide, model: str, event: Callable[[], Event]) -> None:
        self._engine, self._model, self._event = engine, model, event
        self.side = side
        self._encoder: EncoderInfo | None = None
        self._packer: PixelPacker | None = None

    def connect(self, deadline_s: float, *, starting: bool) -> Flow[ModelInfo]:
        """Both steps as one model. Raises ServerUnavailable, and ServerMismatch if they do not fit."""
        name = f"{self._model}_encoder"
        config = yield from self._engine.model_config(name, deadline_s, starting=starting)
        encoder = EncoderInfo.from_config(config)
        yield from self._engine.require_equal([name])
        if not encoder.preprocess:
            raise ServerMismatch(
                f"the server at {self._engine.servers.url} does not state its pixels_version. "
                f'{_RENDER_AGAIN}, or use decode="server" (clip-embed --decode server)'
            )
        most = yield from self.side.connect(encoder, self._engine.servers.url, deadline_s, starting=starting)
        senders = max(defaults.PIXEL_REQUESTS, encoder.instances) * len(self._engine.servers.all)
        self._encoder = encoder
        self._packer = PixelPacker(self._engine, encoder, senders, self._event)
        return encoder.as_model(self._model, most or encoder.max_batch_size, self.side.limits)

    def request(
        self, photos: Sequence[bytes], *, timed: bool = False, request_id: str = ""
    ) -> Flow[TimedAnswer]:
        """Like RetryEngine.request(). Each of the two steps has the whole deadline."""
        self._engine.require_open()
        decoded = yield from self.side.decode(photos, timed=timed, request_id=request_id)
        sent = [each.pixels for each in decoded.photos if each.facts.error is None]
        answer = TimedAnswer([], 0.0)
        if sent:
            answer = yield from self._encode(sent, request_id)
        return TimedAnswer(
            _merged(decoded.photos, answer.results),
            decoded.seconds + answer.seconds,
            decoded.photo_s,
            decoded.waited_s + answer.waited_s,
        )

    def _encode(self, pixels: Sequence[bytes], request_id: str) -> Flow[TimedAnswer]:
        """Together with the pixels of other calls, unless this request has a name."""
        assert self._encoder is not None
        assert self._packer is not None
        if request_id:
            return self._engine.request(self._encoder, pixels, request_id=request_id)
        return self._packer.request(pixels)

    def statistics(self) -> Flow[dict[str, ServerTimes]]:
        """Of both servers; the encoder's last. Empty if it does not report any."""
        assert self._encoder is not None
        encoder = yield from self._engine.statistics(self._encoder)
        return {**(yield from self.side.statistics()), **encoder} if encoder else {}


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


# --- this process ------------------------------------------------------------------------------


class Decoder(Protocol):
    """Decodes photos on threads."""

    def submit(self, photo: bytes) -> Future[DecodedPhoto]:
        """Never fails for a photo. Raises RuntimeError after close()."""

    def close(self) -> None:
        """Cancels photos that wait for a thread. Does not wait for those being decoded."""


OpenDecoder = Callable[[Mapping[str, str], str], Decoder]
"""From the server's preprocess settings, and its address. Raises ServerMismatch."""
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


class LocalSide:
    """Decodes on threads of this process. The deadline of a request does not include this."""

    servers: Sequence[Server] = ()

    def __init__(self, engine: RetryEngine, open_decoder: OpenDecoder, wait: WaitFor) -> None:
        self._engine, self._open_decoder, self._wait = engine, open_decoder, wait
        self._decoder: Decoder | None = None
        self.limits: Mapping[str, str] = {}

    def connect(self, encoder: EncoderInfo, url: str, deadline_s: float, *, starting: bool) -> Flow[int]:
        del deadline_s, starting
        yield from ()
        self._decoder = self._open_decoder(encoder.preprocess, url)
        return 0

    def decode(self, photos: Sequence[bytes], *, timed: bool, request_id: str) -> Flow[Decoded]:
        del timed, request_id
        begin = time.perf_counter()
        decoded = yield from self._decode(photos)
        seconds = time.perf_counter() - begin
        own = np.array([(each.decode_s, each.preprocess_s) for each in decoded], np.float64)
        return Decoded(decoded, seconds, own, max(0.0, seconds - float(own.sum())))

    def _decode(self, photos: Sequence[bytes]) -> Flow[list[DecodedPhoto]]:
        assert self._decoder is not None
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

    def statistics(self) -> Flow[dict[str, ServerTimes]]:
        yield from ()
        return {}

    def close(self) -> None:
        if self._decoder is not None:
            self._decoder.close()


# --- a server of its own -----------------------------------------------------------------------


class TierSide:
    """Sends photos to servers that decode, and receives their pixels."""

    def __init__(self, engine: RetryEngine, model: str) -> None:
        self._engine, self._model = engine, model
        self._info: PreprocessInfo | None = None

    @property
    def limits(self) -> Mapping[str, str]:
        assert self._info is not None
        return {name: self._info.parameters[name] for name in _LIMITS}

    @property
    def servers(self) -> Sequence[Server]:
        return self._engine.servers.all

    def connect(self, encoder: EncoderInfo, url: str, deadline_s: float, *, starting: bool) -> Flow[int]:
        config = yield from self._engine.model_config(
            f"{self._model}_preprocess", deadline_s, _START_TIER, starting=starting
        )
        self._info = info = PreprocessInfo.from_config(config)
        if differences := _differences(info, encoder):
            raise ServerMismatch(
                f"the pixels of {info.name} at {self._engine.servers.url} are not those that {encoder.name} "
                f"at {url} expects: {'; '.join(differences)}. Serve both from the same repository, with the "
                "same release"
            )
        yield from self._engine.require_equal([info.name])
        return info.max_batch_size

    def decode(self, photos: Sequence[bytes], *, timed: bool, request_id: str) -> Flow[Decoded]:
        assert self._info is not None
        answer = yield from self._engine.request(self._info, photos, timed=timed, request_id=request_id)
        decoded = [DecodedPhoto.of(result) for result in answer.results]
        return Decoded(decoded, answer.seconds, answer.photo_s, answer.waited_s)

    def statistics(self) -> Flow[dict[str, ServerTimes]]:
        assert self._info is not None
        return (yield from self._engine.statistics(self._info))

    def close(self) -> None:
        self._engine.slots.close()


def _differences(info: PreprocessInfo, encoder: EncoderInfo) -> list[str]:
    """The settings of the encoder's pixels that those of the preprocess model do not equal."""
    found = info.parameters
    return [
        f"{name} is {found.get(name, 'not stated')}, not {wanted}"
        for name, wanted in sorted(encoder.preprocess.items())
        if name not in _LIMITS and found.get(name) != wanted
    ]
