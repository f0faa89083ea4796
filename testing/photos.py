"""The photos of a run: a folder of the user's, or camera-sized ones of our own, always the same."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from tools.demo.pictures import BROKEN_NAME, write_photos


def own_photos(folder: Path, on_photo: Callable[[int, int], None]) -> Path:
    """scikit-image's pictures enlarged to 7 megapixels, 39 of them; made once."""
    write_photos(folder, on_photo)
    shutil.rmtree((folder / BROKEN_NAME).parent, ignore_errors=True)
    return folder


def photo_names(folder: Path) -> list[str]:
    """The JPEGs below the folder, as benchmarks.drive names them."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.jp*g"))
