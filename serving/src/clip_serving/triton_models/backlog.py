"""Keeps decoded photos from piling up in front of a CPU encoder.

Triton 24.10 cannot bound the queue between the steps of an ensemble: small photos are decoded far faster than
they are embedded, and requests that wait there are computed even if their client has gone. So preprocess
waits before it hands its photos on. Requests then queue before the decoder, where the queue is bounded.

The processes of one ensemble share a few numbers in a file in /dev/shm. Its name starts as the names of their
regions do, so that the cleanup of those removes it too.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clip_serving import defaults

_NUMBERS = struct.Struct("<qqq")
"""Encoder instances; those that are computing; photos handed on since one of them last took its batch."""
_POLL_S = 0.002
_IDLE_S = 0.1
"""An encoder that does nothing for so long has no photos waiting: what was counted never came."""
_SHARED_MEMORY = Path("/dev/shm")
_UUID = 36


class Backlog:
    """The photos on their way from preprocess to the encoder. Each process opens it once."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.ftruncate(self._file, _NUMBERS.size)
        self._memory = mmap.mmap(self._file, _NUMBERS.size)

    @classmethod
    def of_this_server(cls, ensemble: str) -> Backlog:
        """For a process of the Python backend, a child of tritonserver, that serves a step of `ensemble`."""
        server = os.getppid()
        started = Path(f"/proc/{server}/stat").read_text().rpartition(")")[2].split()[19]
        words = Path("/proc/self/cmdline").read_text().split("\0")
        regions = [word for word in words if "/" not in word and (_SHARED_MEMORY / word).is_file()]
        prefix = regions[0][:-_UUID] if regions else "clip-triton-"
        return cls(_SHARED_MEMORY / f"{prefix}backlog-{server}-{started}-{ensemble}")

    def add_encoder(self) -> None:
        """Called by each encoder instance. Without any, as on a GPU, nothing waits."""
        with self._numbers() as numbers:
            numbers[0] += 1

    @contextmanager
    def embedding(self) -> Iterator[None]:
        """Around the computation of a batch: what was waiting is in it, or in another instance's."""
        with self._numbers() as numbers:
            numbers[1:] = [numbers[1] + 1, 0]
        try:
            yield
        finally:
            with self._numbers() as numbers:
                numbers[1] -= 1

    def hand_on(self, photos: int) -> None:
        """Waits until the encoder has room for so many more photos; for a while, in case it never has."""
        now = time.monotonic()
        end, idle_since = now + defaults.MAX_BACKLOG_WAIT_S, now
        while now < end and now - idle_since < _IDLE_S:
            has_room, is_idle = self._try_to_hand_on(photos)
            if has_room:
                return
            time.sleep(_POLL_S)
            now = time.monotonic()
            idle_since = idle_since if is_idle else now

    def _try_to_hand_on(self, photos: int) -> tuple[bool, bool]:
        """Whether there is room, which is taken then; and whether an encoder instance has nothing to do."""
        with self._numbers() as numbers:
            encoders, busy, waiting = numbers
            limit = defaults.MAX_BACKLOG * encoders
            has_room = encoders == 0 or waiting == 0 or waiting + photos <= limit
            numbers[2] += photos * has_room
            return has_room, busy < encoders

    @contextmanager
    def _numbers(self) -> Iterator[list[int]]:
        """The numbers, to be changed in place; locked for other processes."""
        fcntl.lockf(self._file, fcntl.LOCK_EX)
        try:
            numbers = list(_NUMBERS.unpack_from(self._memory))
            yield numbers
            _NUMBERS.pack_into(self._memory, 0, *numbers)
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN)
