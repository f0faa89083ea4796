"""The codes of an ItemError, as the client documents them and as they are given out."""

from __future__ import annotations

import ast
from pathlib import Path

import clip_client
from clip_client.errors import CLIENT_CODES, SERVER_CODES
from clip_preprocess import ErrorCode


def test_the_servers_codes_are_those_of_preprocessing() -> None:
    """The client cannot import clip_preprocess, so it has a copy."""
    assert {code.value for code in ErrorCode} == SERVER_CODES


def test_the_clients_codes_are_those_in_its_source() -> None:
    used = set()
    for path in Path(clip_client.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "ItemError":
                code = node.args[0]
                assert isinstance(code, ast.Constant), f"{path}:{node.lineno}: give the code as a literal"
                used.add(code.value)
    assert used == CLIENT_CODES
