"""Names of files as text: a path on Linux is bytes, a row's name has to be Unicode.

A name in UTF-8 stands for itself. In any other, a byte that is not UTF-8 is written `\\xe9`, and a
backslash twice. A name in UTF-8 that looks like one of those is written as they are, so that no two
files share a name and each name leads back to its file.
"""

from __future__ import annotations

import os
import re

_WRITTEN = re.compile(r"\\x[89a-f][0-9a-f]")
_READ = re.compile(rb"\\x([89a-f][0-9a-f])|\\\\")


def printable(path: str) -> str:
    """The name of `path`, which os.fsdecode made."""
    raw = os.fsencode(path)
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return raw.replace(b"\\", rb"\\").decode("utf-8", "backslashreplace")
    return text.replace("\\", r"\\") if _WRITTEN.search(text) else text


def path_of(name: str) -> str:
    """The path that printable() made `name` of, for os.fsencode."""
    if not _WRITTEN.search(name):
        return name
    return os.fsdecode(_READ.sub(_byte, name.encode()))


def _byte(match: re.Match[bytes]) -> bytes:
    digits: bytes | None = match[1]
    return bytes.fromhex(digits.decode()) if digits else b"\\"
