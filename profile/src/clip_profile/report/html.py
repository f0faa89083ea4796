"""Our HTML templates: escaped, and without control characters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, FileSystemLoader, PackageLoader, StrictUndefined
from markupsafe import Markup

from clip_profile.console import printable


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
