"""What the commands share on a terminal: text without control characters, counts, and Ctrl-C."""

from __future__ import annotations

import argparse
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_CONTROLS = re.compile(
    r"[\x00-\x1f\x7f-\x9f\xad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]"
)


def printable(text: str, *, keep: str = "\n\t") -> str:
    """`text` with every character escaped, such as `\\x1b`, that controls a terminal; except those in `keep`.

    These are control characters, line separators, marks of the reading direction, invisible characters other
    than the joiners in emoji and scripts, and lone surrogates, which cannot be written at all.
    """
    return _CONTROLS.sub(lambda match: match[0] if match[0] in keep else _escaped(match[0]), text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()


def counted(number: int, noun: str) -> str:
    """A number with its noun in the singular or plural, such as "1 photo" or "2 photos"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


class Parser(argparse.ArgumentParser):
    """Escapes what it prints: an error quotes the argument."""

    def _print_message(self, message: str, file: Any = None) -> None:
        super()._print_message(printable(message), file)


@contextmanager
def interrupts() -> Iterator[None]:
    """Within the block, SIGINT and SIGTERM raise KeyboardInterrupt.

    SIGINT too, because Python ignores it if a shell started the command in the background.
    """
    before = {number: signal.signal(number, _interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    del signum, frame
    raise KeyboardInterrupt
