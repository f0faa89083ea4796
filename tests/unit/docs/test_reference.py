"""The reference pages list what the code has: no more and no less."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from clip_client.errors import CLIENT_CODES, SERVER_CODES
from clip_preprocess.errors import ErrorCode
from clip_preprocess.notices import NoticeCode
from testing.markdown import ROOT
from tools.reference import COMMANDS, command_page, parser_of, subcommands_of

_REFERENCE = ROOT / "docs" / "reference"


def _first_column(page: Path) -> list[str]:
    """Every code in the first cell of a table's row."""
    rows = re.findall(r"^\| (`.*?`) \|", page.read_text(encoding="utf-8"), re.M)
    return [code for row in rows for code in re.findall(r"`([^`]+)`", row)]


def test_error_codes_and_who_reports_them() -> None:
    assert {code.value for code in ErrorCode} == SERVER_CODES, "the client cannot import clip_preprocess"
    page, _ = _errors_and_notices()
    rows = re.findall(r"^\| `(\w+)` \| ([\w, ]+) \|", page, re.M)
    assert len(rows) == len({code for code, _ in rows})
    assert {code for code, reporters in rows if "server" in reporters} == SERVER_CODES
    assert {code for code, reporters in rows if "client" in reporters} == CLIENT_CODES


def test_notice_codes() -> None:
    _, notices = _errors_and_notices()
    codes = re.findall(r"^\| `(\w+)` \|", notices, re.M)
    assert codes == [code.value for code in NoticeCode]


def _errors_and_notices() -> tuple[str, str]:
    """The page's part before the notices, and theirs."""
    errors, notices = (_REFERENCE / "errors.md").read_text(encoding="utf-8").split("\n## Notices\n")
    return errors, notices.split("\n## ")[0]


def test_metrics() -> None:
    source = (ROOT / "serving/src/clip_serving/triton_models/metrics.py").read_text(encoding="utf-8")
    assert set(_first_column(_REFERENCE / "metrics.md")) == set(re.findall(r'"(clip_\w+)"', source))


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_complete(command: str) -> None:
    page = command_page(command)
    parsers = [parser_of(command), *subcommands_of(parser_of(command)).values()]
    for parser in parsers:
        assert f"# {parser.prog}\n" in page
        for flag in parser._option_string_actions:
            assert flag in ("-h", "--help") or f"`{flag}" in page


def test_every_command_has_a_page() -> None:
    projects = "".join(path.read_text(encoding="utf-8") for path in ROOT.glob("*/pyproject.toml"))
    scripts = dict(re.findall(r'^(clip-[\w-]+) = "(.*)"', projects, re.M))
    cli = (_REFERENCE / "cli.md").read_text(encoding="utf-8")
    assert [script for script in scripts if f"`{script}`" not in cli] == []
    assert [name for name in COMMANDS if f'"{name}.md"' not in cli] == []
    del scripts["clip-perf-analyzer"]  # NVIDIA's own options
    assert scripts == COMMANDS
