"""The user's own photos: those that can be decoded, spread over the whole folder."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clip_serving.errors import ProfileError
from clip_serving.preprocess import Preprocessor
from clip_serving.settings import PreprocessSettings

MOST_PHOTOS = 64
MOST_BYTES = 256 * 1024 * 1024
"""perf_analyzer holds them all in memory, and more than once."""
_SIZE = (224, 224)


@dataclass(frozen=True)
class Photos:
    """What the server is asked to embed, over and over. `left_out` files could not be decoded."""

    data: tuple[bytes, ...]
    left_out: int

    @property
    def mean_bytes(self) -> int:
        return sum(map(len, self.data)) // len(self.data)

    def identity(self) -> dict[str, Any]:
        """Tells whether two sweeps had the same photos."""
        digest = hashlib.sha256()
        for photo in self.data:
            digest.update(len(photo).to_bytes(8, "little") + photo)
        return {"count": len(self.data), "mean_bytes": self.mean_bytes, "sha256": digest.hexdigest()}


def read_photos(folder: Path, most: int = MOST_PHOTOS) -> Photos:
    """Up to `most` photos from all over `folder`; raises ProfileError where there is none to use.

    What cannot be decoded is left out: it would be answered without any work, and flatter the figures.
    """
    if str(folder).startswith("gs:/"):
        raise ProfileError(f"{folder}: copy some photos into a folder first; loading is not part of a sweep")
    if not folder.is_dir():
        raise ProfileError(f"{folder} is no folder of photos")
    try:
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        chosen = (
            [files[i] for i in np.unique(np.linspace(0, len(files) - 1, most).astype(int))] if files else []
        )
        found = [file.read_bytes() for file in _within_memory(chosen)]
    except OSError as error:
        raise ProfileError(f"{error.filename}: {error.strerror}") from error
    if not found:
        raise ProfileError(f"there is no file in {folder}")
    pixels = np.empty((len(found), *_SIZE, 3), np.uint8)
    preprocessor = Preprocessor(PreprocessSettings(_SIZE))
    try:
        outcomes = preprocessor.run(found, pixels)
    finally:
        preprocessor.close()
    good = tuple(photo for photo, outcome in zip(found, outcomes, strict=True) if outcome.error is None)
    if not good:
        raise ProfileError(
            f"none of the {len(found)} files looked at in {folder} can be decoded; "
            f"{chosen[0].name}: {outcomes[0].error}"
        )
    return Photos(good, left_out=len(found) - len(good))


def _within_memory(files: list[Path]) -> list[Path]:
    kept: list[Path] = []
    total = 0
    for file in files:
        total += file.stat().st_size
        if kept and total > MOST_BYTES:
            break
        kept.append(file)
    return kept
