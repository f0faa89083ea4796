"""Charts as inline SVG: plain strings whose colours are the page's CSS variables.

Every chart is drawn for a width in pixels; the page holds one for a desk and one for a phone.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_Scale = Callable[[float], float]
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 14, 28, 40


@dataclass(frozen=True)
class Point:
    """A dot at (x, y); `kind` is a CSS class, `label` what a pointer over it is told."""

    x: float
    y: float
    kind: str
    label: str
    x_half: float | None = None
    y_half: float | None = None


@dataclass(frozen=True)
class Line:
    """A polyline through (x, y)."""

    points: Sequence[tuple[float, float]]
    kind: str
    label: str


@dataclass(frozen=True)
class Bar:
    """A bar of stacked (CSS class, value, label) parts."""

    name: str
    parts: Sequence[tuple[str, float, str]]
    half: float | None = None
    """Of the 95 % interval of the whole, where repeats tell it."""
    marked: bool = False


def ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers from at most `low` to at least `high`: steps of 1, 2 or 5 times a power of ten."""
    span = max(high - low, 1e-9)
    raw = span / max(1, most)
    power = 10 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, last + 1)]


def xy(
    points: Sequence[Point],
    lines: Sequence[Line],
    *,
    width: int,
    height: int,
    x_title: str,
    y_title: str,
    x_mark: tuple[float, str] | None = None,
) -> str:
    """Dots and lines over two axes that begin at 0; `x_mark` is a vertical line with a text."""
    xs = (
        [p.x for p in points]
        + [x for line in lines for x, _ in line.points]
        + ([x_mark[0]] if x_mark else [])
    )
    ys = [p.y + (p.y_half or 0) for p in points] + [y for line in lines for _, y in line.points]
    x_ticks = ticks(0, max(xs, default=1.0) or 1.0, max(3, width // 75))
    y_ticks = ticks(0, max(ys, default=1.0) or 1.0, 5)
    right, bottom = width - _RIGHT, height - _BOTTOM

    def sx(value: float) -> float:
        return _LEFT + (right - _LEFT) * value / x_ticks[-1]

    def sy(value: float) -> float:
        return bottom - (bottom - _TOP) * value / y_ticks[-1]

    parts = [_axes(x_ticks, y_ticks, sx, sy, right, bottom, x_title, y_title)]
    if x_mark:
        x = sx(x_mark[0])
        anchor = "end" if x > width / 2 else "start"
        parts.append(f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{bottom}"/>')
        shift = -5 if anchor == "end" else 5
        parts.append(_text(x + shift, _TOP + 10, x_mark[1], "mark-text", anchor))
    for line in lines:
        path = " ".join(f"{sx(x):.1f},{sy(y):.1f}" for x, y in line.points)
        parts.append(f'<polyline class="line {line.kind}" points="{path}">{_title(line.label)}</polyline>')
    for p in points:
        if p.y_half:
            top, foot = sy(p.y + p.y_half), sy(max(0.0, p.y - p.y_half))
            parts.append(
                f'<line class="error" x1="{sx(p.x):.1f}" x2="{sx(p.x):.1f}" y1="{top:.1f}" y2="{foot:.1f}"/>'
            )
    radius = {"best": 7.0, "repeated": 5.0}
    for p in points:
        parts.append(
            f'<circle class="dot {p.kind}" cx="{sx(p.x):.1f}" cy="{sy(p.y):.1f}" '
            f'r="{radius.get(p.kind, 3.5)}">{_title(p.label)}</circle>'
        )
    return _svg(width, height, f"{y_title} against {x_title}", parts)


def _axes(
    x_ticks: Sequence[float],
    y_ticks: Sequence[float],
    sx: _Scale,
    sy: _Scale,
    right: float,
    bottom: float,
    x_title: str,
    y_title: str,
) -> str:
    parts = []
    for value in y_ticks:
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{sy(value):.1f}" y2="{sy(value):.1f}"/>'
        )
        parts.append(_text(_LEFT - 6, sy(value) + 4, f"{value:g}", "tick", "end"))
    for value in x_ticks:
        # The last one would stick out of the picture.
        anchor = "end" if value == x_ticks[-1] else "middle"
        shift = _RIGHT - 2 if anchor == "end" else 0
        parts.append(_text(sx(value) + shift, bottom + 16, f"{value:g}", "tick", anchor))
    parts.append(_text(right, bottom + 33, x_title, "axis", "end"))
    parts.append(_text(4, 14, y_title, "axis", "start"))
    return "".join(parts)


def bars(rows: Sequence[Bar], *, width: int, unit: str) -> str:
    """Horizontal stacked bars, each with its name above it, so that a long name has room on a phone."""
    row_height, bar_height = 40, 16
    height = row_height * len(rows) + 8
    most = max((sum(value for _, value, _ in row.parts) for row in rows), default=1.0) or 1.0
    room = width - 4 - 100
    parts = []
    for number, row in enumerate(rows):
        y = number * row_height + 14
        parts.append(_text(2, y, row.name, "name marked" if row.marked else "name", "start"))
        x = 2.0
        for kind, value, label in row.parts:
            length = room * value / most
            parts.append(
                f'<rect class="bar {kind}" x="{x:.1f}" y="{y + 5}" width="{length:.1f}" '
                f'height="{bar_height}">{_title(label)}</rect>'
            )
            x += length
        total = sum(value for _, value, _ in row.parts)
        half = "" if row.half is None else f" ± {row.half:.0f}"
        parts.append(_text(x + 6, y + 17, f"{total:.0f}{half} {unit}", "tick", "start"))
    return _svg(width, height, "stage breakdown", parts)


def columns(shares: Sequence[tuple[int, float]], *, width: int, height: int, kind: str, x_title: str) -> str:
    """Vertical bars of shares (0..1) by a whole number."""
    bottom, right = height - _BOTTOM, width - _RIGHT
    y_ticks = ticks(0, 100 * max((share for _, share in shares), default=1.0), 4)

    def sy(value: float) -> float:
        return bottom - (bottom - _TOP) * value / y_ticks[-1]

    slot = (right - _LEFT) / max(1, len(shares))
    parts = [_axes([], y_ticks, sy, sy, right, bottom, x_title, "% of executions")]
    for number, (size, share) in enumerate(shares):
        x = _LEFT + number * slot
        top = sy(100 * share)
        parts.append(
            f'<rect class="bar {kind}" x="{x + slot * 0.14:.1f}" y="{top:.1f}" width="{slot * 0.72:.1f}" '
            f'height="{bottom - top:.1f}">{_title(f"batches of {size}: {share:.1%}")}</rect>'
        )
        # Where they are many, some numbers are enough.
        if number % max(1, round(22 / slot)) == 0:
            parts.append(_text(x + slot / 2, bottom + 16, str(size), "tick", "middle"))
    return _svg(width, height, x_title, parts)


def _svg(width: int, height: int, label: str, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{html.escape(label)}">{"".join(parts)}</svg>'
    )


def _text(x: float, y: float, text: str, kind: str, anchor: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(text)}</text>'


def _title(text: str) -> str:
    return f"<title>{html.escape(text)}</title>"
