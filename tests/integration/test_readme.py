"""The README's Python blocks run as they stand, but for the server's address."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from clip_serving.server.embedded import TritonServer
from testing.pictures import camera_photos

_README = Path(__file__).resolve().parent.parent.parent / "README.md"
_BLOCKS = re.findall(r"```python\n(.*?)```", _README.read_text(encoding="utf-8"), re.S)


@pytest.mark.parametrize("block", _BLOCKS, ids=range(len(_BLOCKS)))
def test_python_blocks_run(block: str, server: TritonServer, tmp_path: Path) -> None:
    for name, photo in zip(("a.jpg", "b.jpg"), camera_photos(2, seed=12), strict=True):
        (tmp_path / name).write_bytes(photo)
    assert "127.0.0.1:8001" in block
    code = block.replace("127.0.0.1:8001", server.grpc_url)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "cosine" in done.stdout
    assert "unsupported_format" in done.stdout
