"""The color behind transparent pictures.

open_clip's transform drops the alpha channel, so a dark logo on a transparent canvas may become all black.
The setting `background` shows it on a color instead, before the picture is resized.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageColor

NONE = "none"
"""open_clip's behavior: transparency is ignored."""

_KEY_SCALES = {"L;2": 85, "L;4": 17}
"""From the samples of a gray PNG to the levels that Pillow makes of them, by Pillow's raw mode."""


def normalized(text: str) -> str:
    """`none`, or a color as #rrggbb. Takes #rgb and the names of CSS too; raises ValueError for others."""
    if text == NONE:
        return NONE
    color = ImageColor.getrgb(text)
    if len(color) != 3:
        raise ValueError(f"{text!r} has an alpha value; a background is opaque")
    return "#{:02x}{:02x}{:02x}".format(*color)


def correct_key(picture: Image.Image) -> None:
    """Scales a PNG's transparent color like the pixels that Pillow will load. Call it before load()."""
    key = picture.info.get("transparency")
    raw_mode = getattr(picture, "tile", None) and picture.tile[0][3]  # type: ignore[attr-defined]
    if isinstance(key, int) and raw_mode in _KEY_SCALES:
        picture.info["transparency"] = key * _KEY_SCALES[raw_mode]
    elif isinstance(key, tuple) and raw_mode == "RGB;16B":
        picture.info["transparency"] = tuple(sample >> 8 for sample in key)


def opacity(picture: Image.Image) -> Image.Image | None:
    """The alpha channel of a loaded picture: its own, its palette's, or that of its transparent color.

    None if the picture has no transparency.
    """
    if not picture.has_transparency_data:
        return None
    if picture.mode.startswith("I"):  # Pillow would compare 8 bits
        is_key = np.asarray(picture) == picture.info["transparency"]
        return Image.fromarray(np.where(is_key, 0, 255).astype(np.uint8))
    return (picture if picture.mode == "RGBA" else picture.convert("RGBA")).getchannel("A")


def flattened(picture: Image.Image, alpha: Image.Image, color: str) -> Image.Image:
    """The picture on a canvas of `color`, as RGB."""
    canvas = Image.new("RGB", picture.size, color)
    canvas.paste(picture if picture.mode == "RGB" else picture.convert("RGB"), mask=alpha)
    return canvas
