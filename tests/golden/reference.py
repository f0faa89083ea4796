"""open_clip's own pixels, which ours must equal bit for bit."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
import pillow_heif
from open_clip.transform import image_transform
from PIL import Image, ImageOps

from clip_preprocess import PreprocessSettings

pillow_heif.register_heif_opener()  # for the reference; ours does not need it


def reference(data: bytes, settings: PreprocessSettings, *, transpose: bool) -> npt.NDArray[np.uint8]:
    """open_clip's transform up to and including MaybeConvertMode: uint8 [H,W,3]."""
    transform: Any = image_transform(
        settings.image_size,
        is_train=False,
        resize_mode=settings.resize_mode,
        interpolation=settings.interpolation,
        fill_color=settings.fill_color,
    )
    picture: Any = Image.open(io.BytesIO(data))
    if transpose:
        picture = ImageOps.exif_transpose(picture)
    *steps, to_tensor, _normalize = transform.transforms
    assert type(to_tensor).__name__ == "MaybeToTensor"
    for step in steps:
        picture = step(picture)
    return np.asarray(picture)
