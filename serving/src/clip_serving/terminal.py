"""Text for a terminal: names of folders and files may contain characters that control it."""

from __future__ import annotations

import argparse
import logging
from typing import Any


def printable(text: str, *, keep: str = "\n\t") -> str:
    """`text` with every character escaped, such as `\\x1b`, that is not printed as one; but for `keep`."""
    return "".join(each if each.isprintable() or each in keep else _escaped(each) for each in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()


class Parser(argparse.ArgumentParser):
    """Escapes what it prints: an error quotes the argument."""

    def _print_message(self, message: str, file: Any = None) -> None:
        super()._print_message(printable(message), file)


class Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))
