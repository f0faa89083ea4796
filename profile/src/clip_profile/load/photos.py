"""The user's photos: those that can be decoded, spread over the whole folder."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clip_preprocess.pipeline import Outcome, Preprocessor
from clip_preprocess.settings import PreprocessSettings
from clip_profile.errors import ProfileError

MOST_PHOTOS = 64
MOST_BYTES = 256 * 1024 * 1024
"""perf_analyzer holds all of them in memory, more than once."""
_SIZE = (224, 224)


@dataclass(frozen=True)
class Photos:
    """The photos of a load; `left_out` is the number of files that are too large or not photos."""

    data: tuple[bytes, ...]
    left_out: int

    @property
    def mean_bytes(self) -> int:
        return sum(map(len, self.data)) // len(self.data)

    def identity(self) -> dict[str, Any]:
        """Equal for two sweeps of the same photos."""
        digest = hashlib.sha256()
        for photo in self.data:
            digest.update(len(photo).to_bytes(8, "little") + photo)
        return {"count": len(self.data), "mean_bytes": self.mean_bytes, "sha256": digest.hexdigest()}


def read_photos(folder: Path, most: int = MOST_PHOTOS) -> Photos:
    """Up to `most` photos from all over `folder`; raises ProfileError if none can be used.

    Files that the server would reject (too large, or not a photo) are left out: rejecting them is fast and
    would make the figures look better.
    """
    if str(folder).startswith("gs:/"):
        raise ProfileError(f"{folder} is a bucket. A sweep needs a local folder: copy some photos into one")
    if not folder.is_dir():
        raise ProfileError(f"{folder} is not a folder")
    settings = PreprocessSettings(_SIZE)
    try:
        sizes = {file: file.stat().st_size for file in sorted(folder.rglob("*")) if file.is_file()}
        usual = {file: size for file, size in sizes.items() if size <= settings.limits.max_bytes}
        chosen = _spread(usual, most)
        found = [file.read_bytes() for file in chosen]
    except OSError as error:
        raise ProfileError(f"{error.filename}: {error.strerror}") from error
    if not sizes:
        raise ProfileError(f"{folder} is empty. Give a folder of photos")
    if not found:
        raise ProfileError(f"every file in {folder} is larger than {settings.limits.max_bytes:,} bytes")
    outcomes = _outcomes(found, settings)
    good = tuple(photo for photo, outcome in zip(found, outcomes, strict=True) if outcome.error is None)
    if not good:
        raise ProfileError(
            f"none of {len(found)} files in {folder} can be decoded; {chosen[0].name}: {outcomes[0].error}"
        )
    return Photos(good, left_out=len(sizes) - len(usual) + len(found) - len(good))


def _spread(sizes: Mapping[Path, int], most: int) -> list[Path]:
    """Evenly from first to last: as many as `most` and MOST_BYTES allow, and at least one."""
    files = list(sizes)
    for count in range(min(most, len(files)), 1, -1):
        chosen = [files[i] for i in np.linspace(0, len(files) - 1, count).astype(int)]
        if sum(sizes[file] for file in chosen) <= MOST_BYTES:
            return chosen
    return files[:1]


def _outcomes(photos: list[bytes], settings: PreprocessSettings) -> list[Outcome]:
    preprocessor = Preprocessor(settings)
    try:
        return list(preprocessor.run(photos, np.empty((len(photos), *_SIZE, 3), np.uint8)))
    finally:
        preprocessor.close()
