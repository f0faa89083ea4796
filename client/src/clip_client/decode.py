"""Decoding in the caller's process, with the server's own functions and settings: the extra `decode`.

The only module of this distribution that imports clip_preprocess.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from concurrent.futures import Future

import numpy as np

from clip_client.errors import ItemError, ServerMismatch
from clip_client.requests.pixels import DecodedPhoto
from clip_client.results import Notice, PhotoResult
from clip_client.threads import DaemonExecutor
from clip_preprocess import PIXELS_VERSION, Outcome, Preprocessor, PreprocessSettings, SettingsError
from clip_preprocess.resizer import fast_resize, pillow_resize

_VERSION = "pixels_version"


def settings_of(parameters: Mapping[str, str], url: str) -> PreprocessSettings:
    """From what the server states. Raises ServerMismatch if this process cannot compute the same pixels."""
    if difference := _difference(parameters):
        raise ServerMismatch(
            f'cannot decode photos here for the server at {url}: {difference}, or use decode="server" '
            "(clip-embed --decode server)"
        )
    return PreprocessSettings.from_parameters(parameters)


def _difference(parameters: Mapping[str, str]) -> str | None:
    """What differs and what to do about it; None if nothing does."""
    version = parameters.get(_VERSION)
    if version != str(PIXELS_VERSION):
        return (
            f"it expects pixels_version {version}, the clip-triton-preprocess installed here computes "
            f"{PIXELS_VERSION}. Install the server's release here"
        )
    try:
        settings = PreprocessSettings.from_parameters(parameters)
    except SettingsError as error:
        return f"{error}. Install the server's release here"
    if unknown := sorted(parameters.keys() - settings.to_parameters().keys() - {_VERSION}):
        return (
            f"it has settings that are unknown here ({', '.join(unknown)}). Install the server's release here"
        )
    if settings.quality != "exact" and fast_resize is pillow_resize:
        return (
            f"its quality {settings.quality} needs the resizer cykooz-resizer, which is not installed here. "
            "In a clone of clip-triton: pip install './preprocess[fast]'"
        )
    return None


def available_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class ThreadedDecoder:
    """Decodes at most `threads` photos at a time, each within the settings' `decode_timeout_s`.

    A photo that takes longer fails with `decode_timeout`. Its thread cannot be ended: it runs on without a
    place among the `threads`, and does not hold up the end of the process.
    """

    def __init__(self, settings: PreprocessSettings, threads: int) -> None:
        self._settings = settings
        self._pool = DaemonExecutor(threads, "clip-decode")
        self._own = threading.local()
        self._inner: list[DaemonExecutor] = []

    def submit(self, photo: bytes) -> Future[DecodedPhoto]:
        return self._pool.submit(self._decode, photo)

    def close(self) -> None:
        for pool in (self._pool, *self._inner):
            pool.shutdown(wait=False, cancel_futures=True)

    def _decode(self, photo: bytes) -> DecodedPhoto:
        pixels = np.empty((1, *self._settings.image_size, 3), np.uint8)
        (outcome,) = self._preprocessor.run([photo], pixels)
        return DecodedPhoto(
            b"" if outcome.error else pixels.tobytes(),
            _facts(outcome),
            outcome.decode_s,
            outcome.preprocess_s,
        )

    @property
    def _preprocessor(self) -> Preprocessor:
        """One for each thread, so that a stuck photo keeps no other from starting."""
        if not hasattr(self._own, "preprocessor"):
            self._own.preprocessor = Preprocessor(self._settings, executor=self._new_pool)
        found: Preprocessor = self._own.preprocessor
        return found

    def _new_pool(self, threads: int) -> DaemonExecutor:
        """Where a Preprocessor decodes; another one when a photo is stuck in the last."""
        pool = DaemonExecutor(threads, "clip-decode-photo")
        self._inner.append(pool)
        return pool


def open_decoder(parameters: Mapping[str, str], url: str) -> ThreadedDecoder:
    """For the server at `url`, with a thread per core. Raises ServerMismatch."""
    return ThreadedDecoder(settings_of(parameters, url), available_cores())


def _facts(outcome: Outcome) -> PhotoResult:
    """The same values as a server's answer has."""
    return PhotoResult(
        error=ItemError.from_wire(outcome.error.wire()) if outcome.error else None,
        notices=tuple(Notice.from_wire(notice.wire()) for notice in outcome.notices),
        width=outcome.width or None,
        height=outcome.height or None,
        format=outcome.format or None,
        decode_scale=outcome.scale or None,
    )
