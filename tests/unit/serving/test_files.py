"""Files are replaced whole: on any failure the old content stays and no temporary file remains."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from clip_serving.files import locked, replacing, write_all_atomically, write_atomically


def test_a_file_is_created_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for text in ("first", "second: ü"):
        write_atomically(path, text)
        assert path.read_text(encoding="utf-8") == text
    assert list(tmp_path.iterdir()) == [path]


def test_a_block_that_fails_leaves_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_atomically(path, "old")

    def fail() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_and_permissions_stay(tmp_path: Path) -> None:
    """A deployment.json that is kept elsewhere, or that a server of another user reads."""
    link, real = tmp_path / "link.json", tmp_path / "elsewhere" / "real.json"
    real.parent.mkdir()
    real.write_text("old")
    real.chmod(0o664)
    link.symlink_to("elsewhere/real.json")
    before = os.umask(0o077)
    try:
        write_atomically(link, "new")
    finally:
        os.umask(before)
    assert link.is_symlink()
    assert real.read_text() == "new"
    assert real.stat().st_mode & 0o777 == 0o664
    assert list(real.parent.iterdir()) == [real]


def test_a_link_replaces_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("a file")
    with replacing(path) as temporary:
        temporary.symlink_to("nowhere")
    assert os.readlink(path) == "nowhere"


def test_other_users_may_read_what_was_written(tmp_path: Path) -> None:
    """As a plain open() does it: a server often runs as another user than the export."""
    plain = tmp_path / "plain"
    plain.write_text("")
    write_atomically(tmp_path / "a.json", "")
    assert (tmp_path / "a.json").stat().st_mode == plain.stat().st_mode


def test_all_files_are_written_in_the_order_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    renamed: list[Path] = []
    rename = os.replace

    def recording(source: Path, target: Path) -> None:
        renamed.append(target)
        rename(source, target)

    monkeypatch.setattr(os, "replace", recording)
    paths = [tmp_path / name for name in ("z", "deep/er/m", "a")]
    write_all_atomically({path: path.name for path in paths})
    assert renamed == paths
    assert [path.read_text() for path in paths] == ["z", "m", "a"]


def test_one_file_that_cannot_be_written_changes_none(tmp_path: Path) -> None:
    first, blocked = tmp_path / "first", tmp_path / "blocked"
    first.write_text("old")
    blocked.write_text("a file where a folder must be")
    for order in ([first, blocked / "second"], [blocked / "second", first]):
        with pytest.raises(OSError, match="blocked"):
            write_all_atomically(dict.fromkeys(order, "new"))
        assert first.read_text() == "old"
        assert sorted(tmp_path.iterdir()) == [blocked, first]


_HOLD = """
import sys
from pathlib import Path
from clip_serving.files import locked, replacing, write_all_atomically, write_atomically
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_a_folder_is_locked_until_its_owner_dies(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "locked\n"
        with pytest.raises(BlockingIOError), locked(tmp_path, wait=False):
            pass
        owner.kill()
    with locked(tmp_path, wait=False), locked(tmp_path.parent):
        assert list(tmp_path.iterdir()) == []
