"""Calls a function again and again in a thread, within a `with` block."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType


class Periodic:
    """Calls `look` every `period_s` seconds from the start of the block to its end."""

    def __init__(self, period_s: float, look: Callable[[], None]) -> None:
        self._period_s, self._look = period_s, look
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="clip-profile-periodic", daemon=True)

    def __enter__(self) -> Periodic:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._period_s):
            self._look()
