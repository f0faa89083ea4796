"""Command-line flags for the settings of deployment.json, generated from the tables of the families."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection
from typing import Any

from clip_serving.errors import ConfigurationError
from clip_serving.repository.families import check_set_name
from clip_serving.repository.families.base import ModelFamily
from clip_serving.repository.settings import Choice, Setting, Switch, table

Family = ModelFamily[Any, Any]


def add_flags(
    group: argparse._ActionsContainer,
    family: Family,
    only: Collection[str] | None = None,
    *,
    show_defaults: bool = False,
) -> None:
    """A flag for each setting of `family`, or for those named in `only`; one that is not given is None.

    None keeps the repository's value. `show_defaults` is for commands that create repositories.
    """
    for line in table(family.settings):
        if line.flag and (only is None or line.name in only):
            _add(group, family.flag_prefix, line, show_default=show_defaults and line.default is not None)


def add_name(parser: argparse._ActionsContainer, help: str) -> None:
    """`--name`, which chooses among several sets of models in one repository; "" if it is not given."""

    def read(text: str) -> str:
        try:
            return check_set_name(text) if text else ""
        except ConfigurationError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    parser.add_argument("--name", type=read, default="", metavar="NAME", help=help)


def given(options: argparse.Namespace, family: Family) -> dict[str, Any]:
    """The settings whose flags were given, by name."""
    found = {
        line.name: getattr(options, _destination(family.flag_prefix, line), None)
        for line in table(family.settings)
    }
    return {name: value for name, value in found.items() if value is not None}


def _add(group: argparse._ActionsContainer, prefix: str, line: Setting, *, show_default: bool) -> None:
    destination, flag = _destination(prefix, line), f"--{prefix}{line.flag}"
    default = f" (in a new repository: {_shown(line.default)})" if show_default else ""
    text = (line.help + default).replace("%", "%%")
    match line.values:
        case Switch(off=off):
            group.add_argument(flag, dest=destination, action="store_true", default=None, help=text)
            group.add_argument(
                f"--{prefix}{off}", dest=destination, action="store_false", default=None, help="the opposite"
            )
        case Choice(names=names):
            group.add_argument(flag, dest=destination, choices=names, help=text)
        case _:
            group.add_argument(flag, dest=destination, type=_reader(line), metavar="VALUE", help=text)


def _destination(prefix: str, line: Setting) -> str:
    return f"{prefix}{line.name}".replace("-", "_")


def _reader(line: Setting) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        try:
            return line.values.accept(line.values.parse(text))
        except ValueError:
            allowed = line.values.allowed.removesuffix(", or null")
            raise argparse.ArgumentTypeError(f"{text!r}. Allowed: {allowed}") from None

    return read


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)
