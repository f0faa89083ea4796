"""The photos of a benchmark: a folder of the user's, or camera-sized ones of our own, always the same."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from testing.scenes import BROKEN_NAME, write_photos


def own_photos(folder: Path, on_photo: Callable[[int, int], None] = lambda *_: None) -> Path:
    """scikit-image's pictures enlarged to 7 megapixels, 36 of them; made once."""
    write_photos(folder, on_photo)
    shutil.rmtree((folder / BROKEN_NAME).parent, ignore_errors=True)
    return folder


def photo_names(folder: Path) -> list[str]:
    """The JPEGs below the folder, sorted, as they are named in a benchmark's bucket."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.jp*g"))


def read_photos(folder: Path) -> list[bytes]:
    """The JPEGs below the folder, in the order of their names."""
    return [(folder / name).read_bytes() for name in photo_names(folder)]
