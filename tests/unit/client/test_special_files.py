"""Devices and pipes among the photos: they may have no end, or nobody who writes to them."""

from __future__ import annotations

import dataclasses
import io
import os
from pathlib import Path

import pytest

from clip_client import ItemError, ModelInfo, defaults
from clip_client.photos import read_photo
from clip_client.sources.base import ObjectInfo
from clip_client.sources.folder import FolderSource

INFO = ModelInfo("clip_image", "image", "embedding", "error", 4, 64, {"max_bytes": "1000"})


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "pipe.jpg")
    return tmp_path / "pipe.jpg"


def test_paths_of_devices_and_pipes_are_not_read(pipe: Path) -> None:
    for path in ("/dev/zero", pipe):
        outcome = read_photo(INFO, path)
        assert isinstance(outcome, ItemError)
        assert str(outcome) == f"load_failed: {path}: not a regular file"


def test_a_folder_is_not_a_photo(tmp_path: Path) -> None:
    assert (
        str(read_photo(dataclasses.replace(INFO, parameters={}), tmp_path))
        == f"load_failed: {tmp_path}: Is a directory"
    )


def test_an_open_file_without_an_end_is_read_to_the_limit() -> None:
    with open("/dev/zero", "rb") as endless:
        outcome = read_photo(INFO, endless)
        assert endless.tell() <= 1001
    assert str(outcome) == "too_many_bytes: more than 1,000 bytes, the most that the server accepts"


def test_an_open_pipe_is_read_to_its_end() -> None:
    """A read returns what the pipe holds, however much was asked for."""
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb", buffering=0) as file:
        os.write(writing, b"12")
        os.close(writing)
        assert read_photo(INFO, file) == b"12"


def test_a_file_in_text_mode_is_named() -> None:
    with pytest.raises(TypeError, match="opened in text mode"):
        read_photo(INFO, io.StringIO("text"))  # type: ignore[arg-type]


def test_a_listed_file_that_becomes_a_pipe_is_an_error(pipe: Path) -> None:
    with pytest.raises(ItemError, match=r"load_failed: pipe.jpg: not a regular file"):
        FolderSource(pipe.parent).load(ObjectInfo(pipe.name, 5))


def test_a_listed_file_that_grows_is_read_to_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(defaults, "UNPACKED_BYTES", 100)
    path, source = tmp_path / "a.jpg", FolderSource(tmp_path)
    path.write_bytes(bytes(10))
    (listed,) = source.list()
    path.write_bytes(bytes(100))
    assert source.load(listed) == bytes(100)
    path.write_bytes(bytes(101))
    with pytest.raises(ItemError, match=r"load_failed: a.jpg grew while it was read"):
        source.load(listed)
    assert source.load(dataclasses.replace(listed, size=101)) == bytes(101)
