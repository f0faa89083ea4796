"""Pictures to verify an export with: reproducible, and available offline.

Some are drawn by code; natural ones come from scikit-image's wheel, or from the user's folder.
"""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from clip_export.errors import ExportError


def sample_pictures(count: int) -> list[Image.Image]:
    """RGB pictures of many shapes and contents; picture i is the same for every `count`."""
    return [_picture(seed) for seed in range(count)]


def reference_jpeg() -> bytes:
    """The picture that a server must embed correctly before it is ready: a few kB.

    It is smaller than twice any encoder's side, so no decoder reads it at a reduced scale.
    """
    buffer = io.BytesIO()
    _picture(7, size=(320, 240)).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def _picture(seed: int, size: tuple[int, int] | None = None) -> Image.Image:
    """A colored gradient with shapes and some noise: edges, flat areas and texture in one picture."""
    random = np.random.default_rng(seed)
    width, height = size or (int(random.integers(180, 700)), int(random.integers(180, 700)))
    across = np.linspace(0, 1, width)[None, :, None]
    down = np.linspace(0, 1, height)[:, None, None]
    corners = random.integers(0, 256, (4, 3))
    top = corners[0] * (1 - across) + corners[1] * across
    bottom = corners[2] * (1 - across) + corners[3] * across
    noise = random.normal(0, 6, (height, width, 3))
    picture = Image.fromarray((top * (1 - down) + bottom * down + noise).clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    for _ in range(int(random.integers(3, 9))):
        x, y = random.integers(0, width), random.integers(0, height)
        reach = random.integers(15, max(16, min(width, height) // 2))
        box = (int(x), int(y), int(x + reach), int(y + reach))
        color = tuple(int(value) for value in random.integers(0, 256, 3))
        (draw.ellipse if random.random() < 0.5 else draw.rectangle)(box, fill=color)
    return picture


_NATURAL = (
    "astronaut.png",
    "coffee.png",
    "chelsea.png",
    "rocket.jpg",
    "motorcycle_left.png",
    "hubble_deep_field.jpg",
    "retina.jpg",
    "ihc.png",
)

_OWN_SIDE = 1024


def natural_pictures(count: int) -> list[Image.Image]:
    """RGB crops of scikit-image's photos, each one different; scikit-image itself is not imported."""
    package = importlib.util.find_spec("skimage")
    if package is None or package.origin is None:
        raise ExportError(
            "scikit-image, whose photos int8 is verified with, is not installed: pip install scikit-image"
        )
    folder = Path(package.origin).parent / "data"
    random = np.random.default_rng(0)
    found = []
    for index in range(count):
        with Image.open(folder / _NATURAL[index % len(_NATURAL)]) as picture:
            width, height = picture.size
            scale = float(random.uniform(0.5, 1.0))
            left = int(random.integers(0, round(width * (1 - scale)) + 1))
            top = int(random.integers(0, round(height * (1 - scale)) + 1))
            box = (left, top, left + round(width * scale), top + round(height * scale))
            found.append(picture.convert("RGB").crop(box))
    return found


def own_pictures(folder: Path, least: int, most: int) -> list[Image.Image]:
    """Up to `most` photos, spread evenly over the names in `folder`. Raises ExportError below `least`."""
    if not folder.is_dir():
        raise ExportError(f"{folder} is not a folder")
    readable = {extension for extension, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    names = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in readable]
    found: list[Image.Image] = []
    for path in names[:: max(1, len(names) // most)][:most]:
        try:
            with Image.open(path) as picture:
                small = ImageOps.exif_transpose(picture).convert("RGB")
                small.thumbnail((_OWN_SIDE, _OWN_SIDE))  # all of them are in memory at once
                found.append(small)
        except (OSError, ValueError, Image.DecompressionBombError):
            continue
    if len(found) < least:
        raise ExportError(f"{folder} has too few readable photos: {len(found)} of at least {least}")
    return found
