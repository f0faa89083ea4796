"""Restarts a server that has died: at once, then after increasingly long waits."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from clip_serving import defaults
from clip_serving.errors import ServerError

_logger = logging.getLogger(__name__)
_POLL_S = 0.1


@dataclass
class Backoff:
    """How long to wait before each restart."""

    waits_s: Sequence[float] = defaults.RESTART_BACKOFF_S
    stable_after_s: float = defaults.STABLE_AFTER_S
    deaths: int = 0
    """In a row, without a stable run between them."""

    def wait_s(self, ran_s: float) -> float:
        """The wait before restarting a server that died after `ran_s` seconds of service."""
        if ran_s > self.stable_after_s:
            self.deaths = 0
        self.deaths += 1
        return self.waits_s[min(self.deaths, len(self.waits_s)) - 1]


class Supervisor:
    """Watches one server in a thread, and restarts it until `stopping` is set."""

    def __init__(
        self,
        *,
        death: Callable[[], str | None],
        kill: Callable[[], None],
        start: Callable[[], None],
        stopping: threading.Event,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`death` says why the server is dead, None if it is alive; `start` raises if it does not start."""
        self._death, self._kill, self._start = death, kill, start
        self._stopping, self._clock = stopping, clock
        self._thread = threading.Thread(target=self.run, name="clip-serve-supervisor", daemon=True)
        self.restarts = 0
        """Restarts after which the server became ready."""

    def begin(self) -> None:
        self._thread.start()

    def join(self) -> None:
        """Waits until the thread has ended. Does nothing if it did not begin, or in the thread itself."""
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def run(self) -> None:
        """Returns when `stopping` is set."""
        backoff, ready_at = Backoff(), self._clock()
        while not self._stopping.wait(_POLL_S):
            reason = self._death()
            if reason is None:
                continue
            wait_s = backoff.wait_s(ran_s=self._clock() - ready_at)
            _logger.warning("%s: restarting the server%s", reason, f" in {wait_s:.0f} s" if wait_s else "")
            # Kill before the wait: requests in flight on a server without its stub would never be answered.
            self._kill()
            if self._stopping.wait(wait_s):
                return
            self._restart()
            ready_at = self._clock()

    def _restart(self) -> None:
        begin = self._clock()
        try:
            self._start()
        except Exception as error:  # the next attempt may succeed, whatever the cause
            if not self._stopping.is_set():
                _logger.error("restart failed: %s", error, exc_info=not isinstance(error, ServerError))
                self._kill()
            return
        self.restarts += 1
        _logger.warning("the server is ready again after %.1f s", self._clock() - begin)
