"""Pieces of HTML that the report's sections are made of; every text is escaped."""

from __future__ import annotations

import html
import shlex
from collections.abc import Callable, Sequence

WIDE, NARROW = 800, 330
"""Pixels of a chart on a desk and on a phone."""


def section(title: str, body: str) -> str:
    return f"<section><h2>{html.escape(title)}</h2>{body}</section>"


def figure(title: str, note: str, legend: str, draw: Callable[[int], str]) -> str:
    return section(title, soft(note) + legend + both(draw))


def both(draw: Callable[[int], str]) -> str:
    return f'<figure class="wide">{draw(WIDE)}</figure><figure class="narrow">{draw(NARROW)}</figure>'


def soft(text: str) -> str:
    return f'<p class="soft">{html.escape(text)}</p>'


def command(line: str) -> str:
    """A shell's command line that is broken between its words only."""
    words = (f"<span>{html.escape(shlex.quote(word))}</span>" for word in shlex.split(line))
    return f"<pre>{' '.join(words)}</pre>"


def legend(*entries: tuple[str, str]) -> str:
    items = "".join(f'<span><i class="{kind}"></i>{html.escape(name)}</span>' for kind, name in entries)
    return f'<div class="legend">{items}</div>'


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], marked: Sequence[int] = ()) -> str:
    head = "".join(f"<th>{html.escape(text)}</th>" for text in heads)
    body = "".join(
        ('<tr class="best">' if number in marked else "<tr>")
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in row)
        + "</tr>"
        for number, row in enumerate(rows)
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
