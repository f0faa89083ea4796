"""Renders the templates: escaped, and without control characters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from clip_client.files import replacing
from clip_client.terminal import printable
from clip_search.errors import SearchError


def render(template: str, **values: Any) -> str:
    environment = Environment(
        loader=PackageLoader("clip_search.sheet"),
        autoescape=True,
        finalize=_printable,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(values)


def write_page(path: Path, template: str, **values: Any) -> None:
    """Writes the rendered template to `path`, atomically. Raises SearchError."""
    text = render(template, **values)
    try:
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise SearchError(f"cannot write {path}: {error.strerror}") from error


def _printable(value: Any) -> Any:
    return printable(value, keep="") if isinstance(value, str) and not isinstance(value, Markup) else value
