"""Lines over a common axis as a small SVG, each in a panel of its own."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

_WIDTH, _PANEL, _LEFT, _TOP = 720, 180, 70, 40


@dataclass(frozen=True)
class Line:
    """One quantity; `x` and `y` are of the same length."""

    name: str
    x: list[float]
    y: list[float]


def chart(title: str, axis: str, lines: list[Line]) -> str:
    """The SVG's text; every panel begins at zero, so that growth is seen as what it is."""
    height = _TOP + len(lines) * _PANEL + 30
    panels = "".join(_panel(line, _TOP + index * _PANEL) for index, line in enumerate(lines))
    right = max((max(line.x) for line in lines), default=0.0)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        f'font-family="sans-serif" font-size="13"><rect width="100%" height="100%" fill="white"/>'
        f'<text x="{_LEFT}" y="24" font-size="16">{escape(title)}</text>{panels}'
        f'<text x="{_WIDTH - 20}" y="{height - 10}" text-anchor="end">{right:.0f} {escape(axis)}</text></svg>'
    )


def _panel(line: Line, top: int) -> str:
    most, right = max(line.y) * 1.1 or 1.0, max(line.x) or 1.0
    bottom, width, height = top + _PANEL - 40, _WIDTH - _LEFT - 20, _PANEL - 60

    def place(x: float, y: float) -> str:
        return f"{_LEFT + width * x / right:.1f},{bottom - height * y / most:.1f}"

    points = " ".join(place(x, y) for x, y in zip(line.x, line.y, strict=True))
    return (
        f'<text x="{_LEFT}" y="{top + 12}">{escape(line.name)}</text>'
        f'<path d="M{_LEFT} {bottom}h{width}" stroke="#999"/>'
        f'<text x="{_LEFT - 8}" y="{bottom}" text-anchor="end">0</text>'
        f'<text x="{_LEFT - 8}" y="{bottom - height + 4}" text-anchor="end">{most:.0f}</text>'
        f'<polyline points="{points}" fill="none" stroke="#1769aa" stroke-width="2"/>'
    )
