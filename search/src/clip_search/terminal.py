"""Text for a terminal: tables, and names without control characters."""

from __future__ import annotations

import re
from collections.abc import Sequence

_UNPRINTABLE = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]"
)


def printable(text: str) -> str:
    """`text` in one line, without characters that move the cursor, change colors, reverse the reading
    direction or are invisible. Each is replaced by U+FFFD."""
    return _UNPRINTABLE.sub("\ufffd", text)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns padded to their widest cell. The first column is aligned to the right."""
    cells = [[printable(cell) for cell in row] for row in (heads, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for first, *others in cells:
        padded = [cell.ljust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([first.rjust(widths[0]), *padded]).rstrip())
    return "\n".join(lines)
