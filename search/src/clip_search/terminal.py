"""Tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from clip_client.terminal import printable


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns padded to their widest cell. The first column is aligned to the right."""
    cells = [[printable(cell, keep="") for cell in row] for row in (heads, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for first, *others in cells:
        padded = [cell.ljust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([first.rjust(widths[0]), *padded]).rstrip())
    return "\n".join(lines)
