"""PIXELS_VERSION increases with the pixels: the digests of a fixed set of pictures, by version and quality.

All CPUs have the same pixels: the decoders and the resizer compute in integers, with or without AVX2. Without
the vectorized resizer, the lower qualities have others.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from clip_preprocess import PIXELS_VERSION, Preprocessor, PreprocessSettings, Quality, resizer

FOLDER = Path(__file__).parent / "data" / "pixels"
DIGESTS = FOLDER / "digests.json"
_VARIANTS: list[dict[str, Any]] = [
    {"image_size": (224, 224)},
    {"image_size": (96, 128), "resize_mode": "squash", "interpolation": "bilinear"},
    {"image_size": (64, 64), "resize_mode": "longest", "fill_color": 7, "background": "#20c040"},
    {"image_size": (50, 40), "interpolation": "nearest", "apply_exif_orientation": False},
]
needs_resizer = pytest.mark.skipif(
    resizer.fast_resize is resizer.pillow_resize, reason="the resizer of the lower qualities is not installed"
)
QUALITIES = [
    pytest.param(quality, marks=[] if quality == "exact" else needs_resizer) for quality in get_args(Quality)
]


def digest(quality: Quality) -> str:
    photos = [path.read_bytes() for path in sorted(FOLDER.iterdir()) if path != DIGESTS]
    assert len(photos) == 11
    sha = hashlib.sha256()
    for variant in _VARIANTS:
        settings = PreprocessSettings(quality=quality, **variant)
        pixels = np.zeros((len(photos), *settings.image_size, 3), np.uint8)
        preprocessor = Preprocessor(settings)
        outcomes = preprocessor.run(photos, pixels)
        preprocessor.close()
        assert [outcome.error for outcome in outcomes] == [None] * len(photos)
        sha.update(pixels.tobytes())
    return sha.hexdigest()


@pytest.mark.parametrize("quality", QUALITIES)
def test_the_version_is_that_of_the_pixels(quality: Quality) -> None:
    known = json.loads(DIGESTS.read_text(encoding="utf-8"))
    found = digest(quality)
    assert known.get(str(PIXELS_VERSION), {}).get(quality) == found, (
        "the pixels have changed: increase PIXELS_VERSION in clip_preprocess/settings.py, and add the "
        "new version's digests to digests.json. Clients and servers of other versions then refuse each other"
    )


def test_versions_are_those_of_different_pixels() -> None:
    known = json.loads(DIGESTS.read_text(encoding="utf-8"))
    assert sorted(map(int, known)) == list(range(1, PIXELS_VERSION + 1))
    for one in known.values():
        assert one.keys() == set(get_args(Quality))
    assert len({json.dumps(one, sort_keys=True) for one in known.values()}) == len(known)


@pytest.mark.parametrize("quality", QUALITIES)
def test_pixels_do_not_depend_on_the_instructions_of_the_cpu(quality: Quality) -> None:
    """In a process of its own: libjpeg-turbo reads the variable once."""
    code = f"""
import cykooz_resizer
made = cykooz_resizer.Resizer
def plain():
    one = made()
    one.cpu_extensions = cykooz_resizer.CpuExtensions.none
    return one
cykooz_resizer.Resizer = plain
from tests.unit.preprocess.test_pixels_version import digest
print(digest({quality!r}))
"""
    if resizer.fast_resize is resizer.pillow_resize:
        code = code[code.index("from tests") :]
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "JSIMD_FORCENONE": "1"},
        cwd=Path(__file__).parents[3], capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == digest(quality)
