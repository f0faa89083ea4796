"""What `clip-embed` makes of its arguments, and how it ends, where no server has a part in it."""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from clip_client import EmbeddedObject, ObjectInfo
from clip_client.sinks.parquet import ParquetSink
from testing.waiting import PATIENCE_S


def run(*arguments: str, before: str = "") -> subprocess.CompletedProcess[str]:
    """The command; `before` is executed in its process, with its module as `cli`."""
    code = f"import sys\nfrom clip_client import cli\n{before}\nsys.exit(cli.main())"
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--concurrency", "0", "must be at least 1"),
        ("--concurrency", "many", "invalid count value: 'many'"),
        ("--deadline", "0", "must be a positive number of seconds"),
        ("--deadline", "nan", "must be a positive number of seconds"),
        ("--wait", "-1", "must be a positive number of seconds"),
        ("--wait", "inf", "must be a positive number of seconds"),
        ("--out", "gs://album/out.parquet", "cannot write to gs://album/out.parquet: gs:// is not supported"),
        ("--out", ".", ". is a folder. Give the path of the file to write"),
    ],
)
def test_an_option_that_makes_no_sense(option: str, value: str, said: str) -> None:
    done = run(".", "--out", "x.parquet", f"{option}={value}")
    assert done.returncode == 2
    assert f"argument {option}: {said}" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_fault_of_ours_is_not_taken_for_photos_that_failed(tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    with closing(ParquetSink(out)) as sink:
        sink.open({}, 2)
        sink.write(EmbeddedObject(ObjectInfo("a.jpg", 1), np.ones(2, np.float32)))
        sink.flush()
    done = run(".", "--out", str(out), before="cli._embed = lambda options: 1 / 0")
    assert done.returncode == 2
    assert "ZeroDivisionError" in done.stderr
    assert f"finished rows are kept in {out}.parts: run it again with the same command" in done.stderr
