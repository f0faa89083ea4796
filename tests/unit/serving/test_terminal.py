"""What the commands of serving print about names that control a terminal."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from clip_serving.repository.cli import main as render
from clip_serving.terminal import Formatter, printable

_NASTY = "a\x1b[31m\u202eb\x9b"
_SHOWN = r"a\x1b[31m\u202eb\x9b"


def test_what_controls_a_terminal_is_escaped() -> None:
    assert printable(_NASTY) == _SHOWN
    assert printable("two\n\tlines, größer 猫 \udcff") == "two\n\tlines, größer 猫 \\udcff"
    assert printable("two\nlines", keep="") == r"two\nlines"


def test_clip_render_names_a_folder_without_obeying_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert render(["--repository", str(tmp_path / _NASTY)]) == 2
    with pytest.raises(SystemExit):
        render([f"--{_NASTY}"])
    said = capsys.readouterr().err
    assert said.count(_SHOWN) >= 2
    assert "\x1b" not in said


def test_a_log_record_is_escaped() -> None:
    record = logging.LogRecord("clip", logging.WARNING, __file__, 1, "no %s", (_NASTY,), None)
    assert Formatter("%(message)s").format(record) == f"no {_SHOWN}"
