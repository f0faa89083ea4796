"""Links, commands and code blocks of every Markdown page."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path

import pytest

from testing.markdown import ROOT, Block, anchors, blocks, links, pages
from tools.reference import COMMANDS, parser_of, subcommands_of

_PAGES = pages()
_MARKED = [page for page in _PAGES if page == ROOT / "README.md" or ROOT / "docs" in page.parents]
"""Pages whose blocks run unless they say why not; the others may have examples that nothing runs."""
_SHELL = [block for page in _PAGES for block in blocks(page) if block.language == "sh"]


def _named(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", _PAGES, ids=_named)
def test_links_resolve(page: Path) -> None:
    broken = []
    for link in links(page):
        if re.match(r"\w+:", link):
            continue  # another site
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("page", _MARKED, ids=_named)
def test_each_block_says_how_it_is_tested(page: Path) -> None:
    silent = [
        f"{block.where}: put <!-- test: run --> or <!-- test: skip; because: REASON --> in front of it"
        for block in blocks(page)
        if block.language in ("python", "sh", "javascript") and block.test not in ("run", "skip")
    ]
    assert silent == []


@pytest.mark.parametrize("page", _PAGES, ids=_named)
def test_python_blocks_are_valid(page: Path) -> None:
    for block in blocks(page):
        if block.language == "python":
            compile(block.code, block.where, "exec")


def _calls(block: Block) -> list[list[str]]:
    """The block's commands, with their variables and without comments."""
    code = block.code.replace("\\\n", " ")
    variables = dict(re.findall(r'^(\w+)="(.*)"$', code, re.M))
    for name, value in variables.items():
        code = code.replace(f"${name}", value)
    words = (shlex.split(line, comments=True) for line in code.splitlines())
    return [[word for word in call if not re.match(r"[A-Z_]+=", word)] for call in words if call]


@pytest.mark.parametrize("block", _SHELL, ids=lambda block: block.where)
def test_documented_commands_exist(block: Block) -> None:
    for command, *arguments in _calls(block):
        name = Path(command).name
        if name in COMMANDS:
            assert _unknown_flags(name, arguments) == [], block.where
        elif name == "make":
            assert _unknown_targets(arguments) == [], block.where
        elif name == "python" and arguments[0] == "-m":
            assert importlib.util.find_spec(arguments[1]), f"{block.where}: no module {arguments[1]}"


def _unknown_flags(command: str, arguments: list[str]) -> list[str]:
    parser = parser_of(command)
    known = set(parser._option_string_actions)
    known |= set(subcommands_of(parser).get(arguments[0], parser)._option_string_actions)
    return [word for word in arguments if word.startswith("--") and word.partition("=")[0] not in known]


def _unknown_targets(arguments: list[str]) -> list[str]:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([\w-]+):", makefile, re.M))
    return [word for word in arguments if "=" not in word and word not in targets]
