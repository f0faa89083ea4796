"""File names as text: a path on Linux is bytes, but a row's name must be Unicode.

A UTF-8 name is used as it is. In other names, a byte that is not UTF-8 is escaped as `\\xe9`, and a
backslash is doubled. A UTF-8 name that contains such an escape is escaped as well, so that every name is
unique and leads back to its file.
"""

from __future__ import annotations

import os
import re

_WRITTEN = re.compile(r"\\x[89a-f][0-9a-f]")
_READ = re.compile(rb"\\x([89a-f][0-9a-f])|\\\\")


def printable(path: str) -> str:
    """The name of `path`, a string from os.fsdecode()."""
    raw = os.fsencode(path)
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return raw.replace(b"\\", rb"\\").decode("utf-8", "backslashreplace")
    return text.replace("\\", r"\\") if _WRITTEN.search(text) else text


def path_of(name: str) -> str:
    """The inverse of printable(): a string for os.fsencode()."""
    if not _WRITTEN.search(name):
        return name
    return os.fsdecode(_READ.sub(_byte, name.encode()))


def _byte(match: re.Match[bytes]) -> bytes:
    digits: bytes | None = match[1]
    return bytes.fromhex(digits.decode()) if digits else b"\\"
