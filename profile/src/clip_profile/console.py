"""Console output: progress, which the next line replaces, and results, which stay."""

from __future__ import annotations

import sys
from typing import TextIO

from clip_client.terminal import printable

_WIDTH = 150


def duration(seconds: float) -> str:
    """`3 min 05 s`, or `42 s`."""
    whole = max(0, round(seconds))
    return f"{whole // 60} min {whole % 60:02} s" if whole >= 60 else f"{whole} s"


class Console:
    """Writes to `stream`, by default to standard error."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._pending = False

    def line(self, text: str = "") -> None:
        self.clear()
        print(printable(text), file=self._stream, flush=True)

    def doing(self, text: str) -> None:
        """Replaced by whatever comes next; only on a terminal."""
        if self._stream.isatty():
            self.clear()
            self._stream.write(printable(text, keep="")[:_WIDTH])
            self._stream.flush()
            self._pending = True

    def clear(self) -> None:
        """Removes what `doing` shows."""
        if self._pending:
            self._stream.write("\r\033[K")
            self._pending = False
