"""Text for a terminal: file names and error texts may contain characters that control it."""

from __future__ import annotations

import re

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
