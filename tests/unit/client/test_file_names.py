"""Names of files that are not UTF-8: text that can be written, a name for each file, and the way back."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from clip_client.sources.file_names import path_of, printable
from clip_client.sources.folder import FolderSource

_PIECES = [b"\\", b"x", b"e9", b"\\xe9", b"\xe9", b"\xff", "é".encode(), b"a"]
"""What names that could be taken for each other are made of."""

paths = st.lists(st.sampled_from(_PIECES), max_size=8).map(b"".join) | st.binary(max_size=12)


@given(paths, paths)
@example(b"\xe9", rb"\xe9")
@example(rb"\xe9", rb"\\xe9")
def test_each_path_has_its_own_name_and_is_found_again(one: bytes, other: bytes) -> None:
    names = [printable(os.fsdecode(path)) for path in (one, other)]
    assert (names[0] == names[1]) == (one == other)
    for name, path in zip(names, (one, other), strict=True):
        name.encode()  # what a file of rows, or a terminal, does to it
        assert os.fsencode(path_of(name)) == path


@pytest.mark.parametrize("name", ["2024/a.jpg", "Zoë/ß.jpg", r"odd\name.jpg", r"\x41.jpg"])
def test_ordinary_names_stay_as_they_are(name: str) -> None:
    assert printable(name) == name


def test_files_that_could_be_taken_for_each_other(tmp_path: Path) -> None:
    contents = {b"caf\xe9.jpg": b"latin", rb"caf\xe9.jpg": b"typed", "café.jpg".encode(): b"utf-8"}
    for path, data in contents.items():
        Path(os.fsdecode(os.fsencode(tmp_path / "x")[:-1] + path)).write_bytes(data)
    source = FolderSource(tmp_path)
    loaded = {item.name: source.load(item) for item in source.list()}
    assert loaded == {r"caf\xe9.jpg": b"latin", r"caf\\xe9.jpg": b"typed", "café.jpg": b"utf-8"}
