"""`clip-search serve` in a process of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from testing.waiting import PATIENCE_S

HOSTILE = [
    "<script>document.title = 'attacked'</script>.jpg",
    "\"onerror='document.title=`attacked`'.jpg",
    "{{ 7 * 7 }}.jpg",
    "\x1b[31mred\x1b]0;title\x07\r\n.jpg",
    "gpj.\u202eexe",
    "zero\u200bwidth.jpg",
]


@contextmanager
def served(dataset: Path, *options: str) -> Iterator[str]:
    """Yields the page's address. Ends it by SIGINT, and checks that it ends cleanly."""
    command = [sys.executable, "-m", "clip_search.cli", "serve", str(dataset), "--port", "0", *options]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    )
    assert process.stderr is not None
    try:
        lines = iter(process.stderr.readline, "")
        said = ""
        for line in lines:
            said += line
            if found := re.search(r"open (http://127\.0\.0\.1:\d+/)", line):
                break
        else:
            raise AssertionError(said)
        yield found[1]
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == "clip-search: stopped\n"
        assert process.wait(PATIENCE_S) == 130
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
