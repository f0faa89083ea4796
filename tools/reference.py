"""Writes the generated parts of the documentation: `python -m tools.reference DIR`.

Pages in docs/ include them: one file per command from its argparse parser, the settings of deployment.json,
and the list of decision records.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from clip_serving.repository.families import FAMILIES
from clip_serving.repository.settings import INT32_MAX, INT64_MAX, Setting, Switch, table

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = {
    "clip-export": "clip_export.cli:main",
    "clip-render": "clip_serving.repository.cli:main",
    "clip-serve": "clip_serving.cli:main",
    "clip-embed": "clip_client.cli:main",
    "clip-batch": "clip_batch.cli:main",
    "clip-profile": "clip_profile.cli:main",
    "clip-search": "clip_search.cli:main",
    "clip-perf-input": "clip_serving.server.perf_analyzer:main_input",
}
"""The entry point of each command, in the order of the page. clip-perf-analyzer is NVIDIA's own binary."""

_FROM_CORES = re.compile(r"default: \d+, from this machine's cores")


def main() -> int:
    parser = argparse.ArgumentParser("python -m tools.reference", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="DIR")
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for command in COMMANDS:
        (folder / f"{command}.md").write_text(command_page(command), encoding="utf-8")
    (folder / "settings.md").write_text(settings(), encoding="utf-8")
    (folder / "decisions.md").write_text(decisions(), encoding="utf-8")
    return 0


def settings() -> str:
    """A table of all settings per model family, from the tables that deployment.json and the flags share."""
    parts = []
    for family in FAMILIES.values():
        parts += [f"Keys in the section `{family.name}`:\n", "| Key and flag | Default | Meaning |"]
        parts += [
            "| --- | --- | --- |",
            *(_setting(family.flag_prefix, row) for row in table(family.settings)),
            "",
        ]
    return "\n".join(parts)


def _setting(prefix: str, row: Setting) -> str:
    flags = [f"`--{prefix}{row.flag}`"] if row.flag else []
    if isinstance(row.values, Switch):
        flags.append(f"`--{prefix}{row.values.off}`")
    cells = ["<br>".join([f"`{row.key}`", *flags]), f"`{json.dumps(row.default)}`"]
    allowed = re.sub(rf" and at most ({INT32_MAX}|{INT64_MAX})\b", "", row.values.allowed)
    meaning = row.help if isinstance(row.values, Switch) else f"{row.help}. Allowed: {allowed}"
    return f"| {' | '.join([*cells, _cell(meaning)])} |"


def decisions() -> str:
    """A list of the decision records, by their titles."""
    records = sorted((ROOT / "docs" / "adr").glob("[0-9]*.md"))
    titles = (record.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ") for record in records)
    return "".join(f"- [{title}]({record.name})\n" for title, record in zip(titles, records, strict=True))


def command_page(command: str) -> str:
    """Markdown for one command and its subcommands."""
    return "\n".join(_sections(parser_of(command), level=2)) + "\n"


class _Captured(Exception):  # noqa: N818 - not an error
    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self.parser = parser


@functools.cache
def parser_of(command: str) -> argparse.ArgumentParser:
    """The parser that the command's main() builds."""

    def capture(parser: argparse.ArgumentParser, *_: object, **__: object) -> None:
        raise _Captured(parser)

    # The exporter itself is not installed here (torch), but its options import without it.
    export = str(ROOT / "export" / "src")
    with mock.patch.object(sys, "path", [*sys.path, export]):
        module, _, function = COMMANDS[command].partition(":")
        main = getattr(importlib.import_module(module), function)
    with mock.patch.object(argparse.ArgumentParser, "parse_args", capture):
        try:
            main([])
        except _Captured as captured:
            return captured.parser
    raise AssertionError(f"{command} parsed no arguments")


def subcommands_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def _sections(parser: argparse.ArgumentParser, level: int) -> Iterator[str]:
    yield f"{'#' * level} {parser.prog}\n"
    if parser.description:
        yield f"{_text(parser.description.strip())}\n"
    yield f"```text\n{_usage(parser)}\n```\n"
    yield from _tables(parser)
    if parser.epilog:
        yield f"```text\n{parser.epilog.strip()}\n```\n"
    for sub in subcommands_of(parser).values():
        yield from _sections(sub, level + 1)


def _usage(parser: argparse.ArgumentParser) -> str:
    with mock.patch.dict(os.environ, {"COLUMNS": "96"}):
        return parser.format_usage().strip()


def _tables(parser: argparse.ArgumentParser) -> Iterator[str]:
    for group in parser._action_groups:
        rows = list(_rows(parser, group))
        if not rows:
            continue
        if group.title not in ("options", "positional arguments"):
            yield f"**{_text(': '.join(filter(None, (group.title, group.description))))}**\n"
        yield "| Option | Meaning |\n| --- | --- |"
        yield from rows
        yield ""


def _rows(parser: argparse.ArgumentParser, group: argparse._ArgumentGroup) -> Iterator[str]:
    formatter = parser._get_formatter()
    for action in group._group_actions:
        if isinstance(action, argparse._HelpAction):
            continue
        if isinstance(action, argparse._SubParsersAction):
            for choice in action._choices_actions:
                yield f"| `{choice.dest}` | {_cell(choice.help or '')} |"
            continue
        flags = ", ".join(f"`{_invocation(action, flag)}`" for flag in action.option_strings or [""])
        meaning = formatter._expand_help(action) if action.help else ""
        meaning = _FROM_CORES.sub("default: from this machine's cores", meaning)
        yield f"| {flags} | {_cell(meaning)} |"


def _invocation(action: argparse.Action, flag: str) -> str:
    if action.nargs == 0:
        return flag
    if isinstance(action.metavar, str):
        value = action.metavar
    elif action.choices is not None:
        value = "{" + ",".join(map(str, action.choices)) + "}"
    else:
        value = action.dest.upper() if flag else action.dest
    return f"{flag} {value}".strip()


def _cell(text: str) -> str:
    return _text(" ".join(text.split())).replace("|", "\\|")


def _text(text: str) -> str:
    """Help text as Markdown: placeholders such as <name> and *.pbtxt stay as they are."""
    return re.sub(r"(?<!`)([<*])", r"\\\1", text)


if __name__ == "__main__":
    sys.exit(main())
