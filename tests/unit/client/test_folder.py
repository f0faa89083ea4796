"""What of a folder is taken for a photo."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from clip_client import SourceError
from clip_client.sources.folder import FolderSource
from tests.unit.client.unprivileged import nobody


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, and a link to it."""
    for name in (
        "photos/a.jpg",
        "photos/deep/b.jpg",
        "photos/deep/out.parquet",
        "photos/deep/out.parquet.parts/shard-000001.parquet",
        "photos/deep/out.parquet.parts.jpg",
        "photos/out.parquet",
        "photos/.hidden/c.jpg",
        "photos/.out.parquet.lock",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"photo")
    (tmp_path / "link").symlink_to("photos")
    monkeypatch.chdir(tmp_path / "photos")
    return tmp_path


def names(source: FolderSource) -> list[str]:
    return [item.name for item in source.list()]


@pytest.mark.parametrize("root", [".", "../photos", "../link"])
@pytest.mark.parametrize("out", ["deep", "../photos/deep", "../link/deep", "{absolute}/link/deep"])
def test_excluded_paths_are_identified_by_location(folder: Path, root: str, out: str) -> None:
    place = Path(out.format(absolute=folder))
    source = FolderSource(Path(root))
    everything = names(source)
    assert len(everything) == 6
    left = names(source.excluding(place / "out.parquet", place / "out.parquet.parts"))
    assert left == ["a.jpg", "deep/b.jpg", "deep/out.parquet.parts.jpg", "out.parquet"]
    assert names(source) == everything
    assert names(source.excluding(folder / "elsewhere")) == everything


@pytest.mark.parametrize("mode", [0o000, 0o644])
def test_an_unreadable_folder_is_not_skipped(mode: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        closed = Path(name) / "closed"
        closed.mkdir()
        for path in (Path(name) / "a.jpg", closed / "b.jpg"):
            path.write_bytes(b"photo")
        Path(name).chmod(0o755)
        closed.chmod(mode)
        try:
            with nobody(), pytest.raises(SourceError, match=r"cannot list .*closed.*: Permission denied"):
                list(FolderSource(Path(name)).list())
        finally:
            closed.chmod(0o755)


def test_files_are_ordered_by_path(tmp_path: Path) -> None:
    """By the parts of their paths: a/b.jpg is before a-b.jpg, although "-" sorts before "/"."""
    for name in ("a/b.jpg", "a.jpg", "a-b.jpg", "a/c/d.jpg", "a/c.jpg", "b/a.jpg", "B.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"photo")
    (tmp_path / "linked").symlink_to("a")
    (tmp_path / "broken.jpg").symlink_to("none")
    found = [Path(name) for name in names(FolderSource(tmp_path))]
    assert len(found) == 7
    assert found == sorted(found)
