"""Which of a folder's files a sweep takes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from clip_preprocess import defaults
from clip_profile.errors import ProfileError
from clip_profile.load import photos
from clip_profile.load.photos import read_photos
from testing.pictures import camera_photos


@pytest.fixture(scope="module")
def sound() -> list[bytes]:
    return camera_photos(6, seed=3)


def fill(folder: Path, contents: list[bytes]) -> None:
    for number, content in enumerate(contents):
        (folder / f"IMG_{number:04}.jpg").write_bytes(content)


def sparse(path: Path, size: int) -> None:
    path.touch()
    os.truncate(path, size)


def test_a_video_among_the_photos_does_not_matter(tmp_path: Path, sound: list[bytes]) -> None:
    fill(tmp_path, sound)
    sparse(tmp_path / "IMG_0001a.mov", 300_000_000)
    found = read_photos(tmp_path)
    assert list(found.data) == sound
    assert found.left_out == 1


def test_a_file_over_the_limit_is_not_read(tmp_path: Path, sound: list[bytes]) -> None:
    fill(tmp_path, sound[:1])
    sparse(tmp_path / "huge.jpg", 1 << 40)  # to read it would end this test
    assert read_photos(tmp_path).left_out == 1
    (tmp_path / "IMG_0000.jpg").unlink()
    with pytest.raises(ProfileError, match=rf"every file in .* larger than {defaults.MAX_BYTES:,} bytes"):
        read_photos(tmp_path)


def test_a_small_budget_of_bytes_is_spread_over_the_folder(
    tmp_path: Path, sound: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, sound)
    monkeypatch.setattr(photos, "MOST_BYTES", 3 * max(map(len, sound)))
    found = read_photos(tmp_path)
    assert len(found.data) >= 3
    assert (found.data[0], found.data[-1]) == (sound[0], sound[-1])
    assert sum(map(len, found.data)) <= photos.MOST_BYTES
    assert found.left_out == 0, "what was not looked at was not left out"


def test_no_more_than_asked_for(tmp_path: Path, sound: list[bytes]) -> None:
    fill(tmp_path, sound)
    assert list(read_photos(tmp_path, most=2).data) == [sound[0], sound[-1]]
    assert list(read_photos(tmp_path, most=1).data) == sound[:1]
