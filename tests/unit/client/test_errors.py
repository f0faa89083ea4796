"""The codes of an ItemError that the client documents are those that it uses."""

from __future__ import annotations

import ast
from pathlib import Path

import clip_client
from clip_client.errors import CLIENT_CODES


def test_the_clients_codes_are_those_in_its_source() -> None:
    used = set()
    for path in Path(clip_client.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "ItemError":
                code = node.args[0]
                assert isinstance(code, ast.Constant), f"{path}:{node.lineno}: give the code as a literal"
                used.add(code.value)
    assert used == CLIENT_CODES
