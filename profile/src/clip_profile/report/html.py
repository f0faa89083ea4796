"""Our HTML templates: escaped, and without control characters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, FileSystemLoader, PackageLoader, StrictUndefined
from markupsafe import Markup

from clip_client.terminal import printable


@dataclass(frozen=True)
class Section:
    """A title, and any of the other parts, in this order.

    `figures` are (caption, chart), `items` (name, text), `commands` (title, quoted words); `marked` is the
    index of a row.
    """

    title: str
    note: str = ""
    figures: Sequence[tuple[str, Markup]] = ()
    heads: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    marked: int | None = None
    items: Sequence[tuple[str, str]] = ()
    commands: Sequence[tuple[str, Sequence[str]]] = ()
    after: Sequence[str] = ()


def render(template: str, *folders: Path, **values: Any) -> str:
    """A template from `folders` or from ours, which has base.html and charts.html to build on."""
    environment = Environment(
        loader=ChoiceLoader([*map(FileSystemLoader, folders), PackageLoader("clip_profile.report")]),
        autoescape=True,
        finalize=_printable,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(values)


def _printable(value: Any) -> Any:
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value
