"""Camera-like photos out of scikit-image's pictures: enlarged, cropped, and with EXIF."""

from __future__ import annotations

import io
from collections.abc import Iterator

import skimage.data
from PIL import Image

CREDITS = {
    "astronaut": "NASA, public domain",
    "chelsea": "Stéfan van der Walt, CC0",
    "coffee": "Rachel Michetti, CC0",
    "rocket": "SpaceX, CC0",
    "hubble_deep_field": "NASA and ESA, public domain",
    "retina": "Häggström, public domain",
    "stereo_motorcycle": "D. Scharstein et al., CC0",
}
_LONG_SIDE = 3264
_ORIENTATION, _MAKE, _MODEL = 0x0112, 0x010F, 0x0110


def camera_photos() -> Iterator[tuple[str, bytes]]:
    """(name, JPEG): each picture whole, and two crops of it, so that neighbours mean something."""
    for name, picture in _pictures():
        width, height = picture.size
        crops = {
            "whole": (0, 0, width, height),
            "left": (0, 0, int(width * 0.8), height),
            "centre": (width // 8, height // 8, width * 7 // 8, height * 7 // 8),
        }
        for number, (crop, box) in enumerate(crops.items()):
            # The last of each is stored on its side, as a phone does.
            yield f"{name}/{crop}.jpg", _as_camera(picture.crop(box), sideways=number == 2)


def broken_photo() -> bytes:
    """A JPEG whose upload was cut off."""
    _, data = next(camera_photos())
    return data[: len(data) // 3]


def _pictures() -> Iterator[tuple[str, Image.Image]]:
    for name in CREDITS:
        loaded = getattr(skimage.data, name)()
        if name == "stereo_motorcycle":
            yield "motorcycle_left", Image.fromarray(loaded[0])
            yield "motorcycle_right", Image.fromarray(loaded[1])
        else:
            yield name, Image.fromarray(loaded)


def _as_camera(picture: Image.Image, *, sideways: bool) -> bytes:
    scale = _LONG_SIDE / max(picture.size)
    size = (round(picture.width * scale), round(picture.height * scale))
    large = picture.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[_MAKE], exif[_MODEL] = "clip-triton", "demo"
    if sideways:
        large = large.transpose(Image.Transpose.ROTATE_90)
        exif[_ORIENTATION] = 6
    buffer = io.BytesIO()
    large.save(buffer, "JPEG", quality=92, exif=exif)
    return buffer.getvalue()
