"""Charts as SVG, with CSS classes for their colors: see templates/chart.css."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from clip_client.terminal import printable

WIDE, NARROW = 940, 330
"""Pixels of a chart on a desktop and on a phone."""
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 14, 28, 40
_CHARACTER = 6.2
"""Mean width of a character of a chart's text, in pixels."""
_RADIUS = {"best": 7.0, "repeated": 5.0}
"""Of a dot, by its kind."""


@dataclass(frozen=True)
class Point:
    """A dot at (x, y); `kind` is a CSS class, `label` is shown under a pointer. `y_half` is half of the 95 %
    interval of y."""

    x: float
    y: float
    kind: str
    label: str
    y_half: float | None = None


@dataclass(frozen=True)
class Line:
    """A polyline through (x, y)."""

    points: Sequence[tuple[float, float]]
    kind: str
    label: str


@dataclass(frozen=True)
class Bar:
    """A bar of stacked (CSS class, value, label) parts; `half` is half of the 95 % interval of the whole."""

    name: str
    parts: Sequence[tuple[str, float, str]]
    half: float | None = None
    marked: bool = False


def figure(
    draw: Callable[..., Markup], *args: object, legend: Sequence[tuple[str, str]] = (), **options: object
) -> Markup:
    """`draw(*args, width=..., **options)` for a desktop and for a phone; `legend` has (CSS class, text)."""
    items = [_tag("span", _tag("i", "", class_=kind) + printable(text)) for kind, text in legend]
    return (
        (_tag("div", Markup("").join(items), class_="legend") if items else Markup(""))
        + _tag("figure", draw(*args, width=WIDE, **options), class_="wide")
        + _tag("figure", draw(*args, width=NARROW, **options), class_="narrow")
    )


def over_time(lines: Sequence[Line], y_title: str, height: int) -> Markup:
    """Lines over seconds, with a legend."""
    legend = list(dict.fromkeys((line.kind, line.label) for line in lines))
    return figure(xy, [], lines, legend=legend, height=height, x_title="seconds", y_title=y_title)


def ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers from at most `low` to at least `high`: steps of 1, 2 or 5 times a power of ten."""
    raw = max(high - low, 1e-9) / max(1, most)
    power = 10 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, last + 1)]


class _Frame:
    """A drawing of `width` x `height` pixels with axes that begin at 0 and reach up to the largest values."""

    def __init__(self, width: int, height: int, x_most: float, y_most: float, y_ticks: int = 5) -> None:
        self.width, self.height = width, height
        self.right, self.bottom = width - _RIGHT, height - _BOTTOM
        self.x_ticks = ticks(0, x_most or 1.0, max(3, width // 75))
        self.y_ticks = ticks(0, y_most or 1.0, y_ticks)
        self.parts: list[Markup] = []

    def x(self, value: float) -> float:
        return _LEFT + (self.right - _LEFT) * value / self.x_ticks[-1]

    def y(self, value: float) -> float:
        return self.bottom - (self.bottom - _TOP) * value / self.y_ticks[-1]

    def line(self, kind: str, x1: float, y1: float, x2: float, y2: float) -> None:
        self.parts.append(_tag("line", class_=kind, x1=x1, y1=y1, x2=x2, y2=y2))

    def text(self, text: str, x: float, y: float, kind: str, anchor: str) -> None:
        self.parts.append(_text(text, x, y, kind, anchor))

    def axes(self, x_title: str, y_title: str, *, x_numbers: bool = True) -> None:
        for value in self.y_ticks:
            y = self.y(value)
            self.line("grid", _LEFT, y, self.right, y)
            self.text(f"{value:g}", _LEFT - 6, y + 4, "tick", "end")
        for value in self.x_ticks[:-1] if x_numbers else ():
            self.text(f"{value:g}", self.x(value), self.bottom + 16, "tick", "middle")
        if x_numbers:  # the last one, if centered, would overflow the picture
            self.text(f"{self.x_ticks[-1]:g}", self.width - 2, self.bottom + 16, "tick", "end")
        self.text(x_title, self.right, self.bottom + 33, "axis", "end")
        self.text(y_title, 4, 14, "axis", "start")

    def svg(self, label: str) -> Markup:
        return _svg(self.width, self.height, label, self.parts)


def xy(
    points: Sequence[Point],
    lines: Sequence[Line],
    *,
    width: int,
    height: int,
    x_title: str,
    y_title: str,
    x_mark: tuple[float, str] | None = None,
) -> Markup:
    """Dots and lines over two axes that begin at 0; `x_mark` is a vertical line with a text."""
    corners = [(p.x, p.y + (p.y_half or 0)) for p in points] + [at for line in lines for at in line.points]
    corners.append((x_mark[0] if x_mark else 0.0, 0.0))
    frame = _Frame(width, height, *map(max, zip(*corners, strict=True)))
    frame.axes(x_title, y_title)
    if x_mark:
        x, text = frame.x(x_mark[0]), x_mark[1]
        frame.line("mark", x, _TOP, x, frame.bottom)
        side, anchor = (-5, "end") if x > width / 2 else (5, "start")
        frame.text(text, x + side, _TOP + 10, "mark-text", anchor)
    for line in lines:
        path = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in line.points)
        title = _tag("title", line.label)
        frame.parts.append(_tag("polyline", title, class_=f"line {line.kind}", points=path))
    for p in points:
        if p.y_half:
            top, foot = frame.y(p.y + p.y_half), frame.y(max(0.0, p.y - p.y_half))
            frame.line("error", frame.x(p.x), top, frame.x(p.x), foot)
    for p in points:
        at = {"cx": frame.x(p.x), "cy": frame.y(p.y), "r": _RADIUS.get(p.kind, 3.5)}
        frame.parts.append(_tag("circle", _tag("title", p.label), class_=f"dot {p.kind}", **at))
    return frame.svg(f"{y_title} against {x_title}")


def bars(rows: Sequence[Bar], *, width: int, unit: str) -> Markup:
    """Horizontal stacked bars, each with its name above it, so that long names fit on a phone."""
    most = max((sum(value for _, value, _ in row.parts) for row in rows), default=1.0) or 1.0
    parts: list[Markup] = []
    top = 14
    for row in rows:
        for line in textwrap.wrap(row.name, int(width / _CHARACTER)):
            parts.append(_text(line, 2, top, "name marked" if row.marked else "name", "start"))
            top += 15
        x = 2.0
        for kind, value, label in row.parts:
            length = (width - 104) * value / most
            at = {"x": x, "y": top - 10, "width": length, "height": 16}
            parts.append(_tag("rect", _tag("title", label), class_=f"bar {kind}", **at))
            x += length
        half = "" if row.half is None else f" ± {row.half:.0f}"
        total = sum(value for _, value, _ in row.parts)
        parts.append(_text(f"{total:.0f}{half} {unit}", x + 6, top + 2, "tick", "start"))
        top += 25
    return _svg(width, top - 6, "stage breakdown", parts)


def columns(
    shares: Sequence[tuple[int, float]], *, width: int, height: int, kind: str, x_title: str
) -> Markup:
    """Vertical bars of shares (0..1) by a whole number."""
    frame = _Frame(width, height, 1.0, 100 * max((share for _, share in shares), default=1.0), y_ticks=4)
    frame.axes(x_title, "% of executions", x_numbers=False)
    slot = (frame.right - _LEFT) / max(1, len(shares))
    for number, (size, share) in enumerate(shares):
        x, top = _LEFT + number * slot, frame.y(100 * share)
        at = {"x": x + slot * 0.14, "y": top, "width": slot * 0.72, "height": frame.bottom - top}
        title = _tag("title", f"batches of {size}: {share:.1%}")
        frame.parts.append(_tag("rect", title, class_=f"bar {kind}", **at))
        if number % max(1, round(22 / slot)) == 0:  # of many, some numbers are enough
            frame.text(str(size), x + slot / 2, frame.bottom + 16, "tick", "middle")
    return frame.svg(x_title)


def _svg(width: int, height: int, label: str, parts: Sequence[Markup]) -> Markup:
    size = {"viewBox": f"0 0 {width} {height}", "width": width, "height": height}
    return _tag("svg", Markup("").join(parts), **size, role="img", aria_label=label)


def _text(text: str, x: float, y: float, kind: str, anchor: str) -> Markup:
    return _tag("text", text, class_=kind, x=x, y=y, text_anchor=anchor)


def _tag(name: str, content: str | None = None, **attributes: object) -> Markup:
    """One element, with everything escaped that is not Markup; `_` in an attribute's name stands for `-`."""
    written = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), _value(value))
        for key, value in attributes.items()
    )
    if content is None:
        return Markup("<{}{}/>").format(name, written)
    inner = content if isinstance(content, Markup) else printable(content)
    return Markup("<{}{}>{}</{}>").format(name, written, inner, name)


def _value(value: object) -> str:
    return f"{value:.1f}" if isinstance(value, float) else printable(str(value))
