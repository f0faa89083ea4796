"""Camera-like photos made from scikit-image's pictures: enlarged, cropped, grainy, and with EXIF.

There are three shots of each scene, so that a photo's nearest neighbors can be checked.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageEnhance

from testing.pictures import encoded, source_picture

BROKEN_NAME = "broken/cut-off-upload.jpg"
_MEGAPIXELS = 7.0


@dataclass(frozen=True)
class Scene:
    """One subject: a `file` of scikit-image's data folder, and its credit."""

    name: str
    file: str
    credit: str


SCENES = (
    Scene("astronaut", "astronaut.png", "NASA, public domain"),
    Scene("camera", "camera.png", "Lav Varshney, CC0"),
    Scene("cat", "chelsea.png", "Stéfan van der Walt, CC0"),
    Scene("coffee", "coffee.png", "Rachel Michetti, CC0"),
    Scene("rocket", "rocket.jpg", "SpaceX, public domain"),
    Scene("galaxies", "hubble_deep_field.jpg", "NASA, public domain"),
    Scene("retina", "retina.jpg", "Mikael Häggström, CC0"),
    Scene("brick", "brick.png", "CC0Textures, CC0"),
    Scene("gravel", "gravel.png", "CC0Textures, CC0"),
    Scene("grass", "grass.png", "linolafett, CC0"),
    Scene("coins", "coins.png", "Brooklyn Museum, no known copyright restrictions"),
    Scene("clock", "clock_motion.png", "Stéfan van der Walt, public domain"),
)


@dataclass(frozen=True)
class Shot:
    """How a scene is taken: (left, top, right, bottom) of the picture in 0..1, light, and position."""

    name: str
    frame: tuple[float, float, float, float]
    brightness: float = 1.0
    warmth: float = 1.0
    sideways: bool = False
    """Stored as a phone held sideways stores it; EXIF says how to turn it back."""


SHOTS = (
    Shot("whole", (0.0, 0.0, 1.0, 1.0)),
    Shot("closer", (0.06, 0.04, 0.94, 0.92)),
    Shot("turned", (0.08, 0.08, 1.0, 1.0), brightness=0.97, warmth=1.02, sideways=True),
)


def write_photos(folder: Path, on_photo: Callable[[int, int], None]) -> None:
    """Writes SCENE/SHOT.jpg for each of them, and the broken one; calls on_photo(done, total).

    Photos that the same version of this file wrote are kept. Raises OSError if the folder cannot be written.
    """
    recipe = folder / ".recipe"
    current = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    if not recipe.exists() or recipe.read_text() != current:
        shutil.rmtree(folder, ignore_errors=True)
        _write(recipe, current.encode())
    wanted = list(_wanted())
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        written = pool.map(lambda item: _write_once(folder, *item), wanted)
        for done, _ in enumerate(written, 1):
            on_photo(done, len(wanted))
    scene, shot = SCENES[0], SHOTS[0]
    whole = (folder / scene.name / f"{shot.name}.jpg").read_bytes()
    _write(folder / BROKEN_NAME, whole[: len(whole) // 3])


def take(scene: Scene, shot: Shot, seed: int, megapixels: float = _MEGAPIXELS) -> bytes:
    """One photo: the bytes of a JPEG of about `megapixels`; always the same for the same arguments."""
    picture = _frame(source_picture(scene.file), shot.frame)
    scale = (megapixels * 1e6 / (picture.width * picture.height)) ** 0.5
    size = (round(picture.width * scale), round(picture.height * scale))
    large = ImageEnhance.Brightness(picture).enhance(shot.brightness).resize(size, Image.Resampling.BICUBIC)
    photo = _grain(large, shot.warmth, seed)
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "clip-triton"
    exif[ExifTags.Base.Model] = "demo camera"
    exif[ExifTags.Base.DateTime] = f"2024:06:01 12:{seed // 60 % 60:02}:{seed % 60:02}"
    if shot.sideways:
        photo = photo.transpose(Image.Transpose.ROTATE_90)
        exif[ExifTags.Base.Orientation] = 6
    return encoded(photo, "JPEG", quality=91, subsampling="4:2:0", exif=exif)


def _wanted() -> Iterator[tuple[Scene, Shot, int]]:
    pairs = [(scene, shot) for scene in SCENES for shot in SHOTS]
    for seed, (scene, shot) in enumerate(pairs):
        yield scene, shot, seed


def _write_once(folder: Path, scene: Scene, shot: Shot, seed: int) -> None:
    path = folder / scene.name / f"{shot.name}.jpg"
    if not path.exists():
        _write(path, take(scene, shot, seed))


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    temporary.write_bytes(data)
    temporary.replace(path)


def _frame(picture: Image.Image, frame: tuple[float, float, float, float]) -> Image.Image:
    left, top, right, bottom = frame
    width, height = picture.size
    return picture.crop(
        (round(left * width), round(top * height), round(right * width), round(bottom * height))
    )


def _grain(picture: Image.Image, warmth: float, seed: int) -> Image.Image:
    """Sensor noise, so that the file is as large as a camera's; `warmth` shifts blue to red."""
    noise = np.random.default_rng(seed).integers(-9, 10, (picture.height, picture.width, 1), np.int16)
    pixels = np.asarray(picture, np.float32) * np.array([warmth, 1.0, 1 / warmth], np.float32)
    return Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8))
