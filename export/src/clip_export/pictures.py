"""Pictures made by code, so that an export can be verified anywhere, offline, and always alike."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageDraw


def sample_pictures(count: int) -> list[Image.Image]:
    """RGB pictures of many shapes and contents; the first ones never change."""
    return [_picture(seed) for seed in range(count)]


def reference_jpeg() -> bytes:
    """The picture that every server is asked to embed before it is called ready: a few kB.

    Smaller than twice any encoder's side, so that no decoder is tempted to scale it.
    """
    buffer = io.BytesIO()
    _picture(7, size=(320, 240)).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def _picture(seed: int, size: tuple[int, int] | None = None) -> Image.Image:
    """A coloured gradient with shapes and some noise: edges, flats and texture in one picture."""
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
        colour = tuple(int(value) for value in random.integers(0, 256, 3))
        (draw.ellipse if random.random() < 0.5 else draw.rectangle)(box, fill=colour)
    return picture
