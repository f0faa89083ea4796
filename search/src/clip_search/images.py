"""Pictures with OpenCV: thumbnails, sharpness and perceptual hashes. Needs the extra `images`."""

from __future__ import annotations

import base64
import os
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from clip_search import defaults
from clip_search.errors import SearchError

Pixels = npt.NDArray[np.uint8]


def _cv2() -> Any:
    """OpenCV, loaded when it is first used: it takes a tenth of a second."""
    os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(defaults.MAX_IMAGE_PIXELS))
    os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")
    try:
        import cv2
    except ImportError as error:
        raise SearchError(
            "pictures need OpenCV. In a clone of clip-triton: pip install './search[images]'"
        ) from error
    return cv2


def require() -> None:
    """Raises SearchError if OpenCV is missing."""
    _cv2()


def decoded(data: bytes, side: int) -> Pixels | None:
    """The picture, upright, BGR uint8 [H, W, 3], about `side` pixels or more; None if OpenCV cannot read it.

    A JPEG is decoded at an eighth or a quarter if that is enough.
    """
    cv2 = _cv2()
    flags = [cv2.IMREAD_REDUCED_COLOR_8, cv2.IMREAD_REDUCED_COLOR_4, cv2.IMREAD_COLOR]
    for flag in flags if side < sys.maxsize else flags[-1:]:
        try:
            image = cv2.imdecode(np.frombuffer(data, np.uint8), flag) if data else None
        except cv2.error:
            return None
        if image is None or min(image.shape[:2]) >= side:
            break
    return image


def thumbnail(data: bytes) -> str:
    """A JPEG of at most defaults.THUMBNAIL pixels a side as a data URI; "" if OpenCV cannot read it."""
    cv2 = _cv2()
    image = decoded(data, defaults.THUMBNAIL)
    if image is None:
        return ""
    height, width = image.shape[:2]
    scale = min(1.0, defaults.THUMBNAIL / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    _, encoded = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, defaults.THUMBNAIL_QUALITY])
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode()


@dataclass(frozen=True)
class Signature:
    """What duplicates are compared by.

    `pixels` is width x height, `sharpness` the variance of the Laplacian at defaults.SHARPNESS_SIDE pixels.
    `brightness` is the mean of the gray picture, 0 to 1, and `clipped` the share of its pixels that are black
    or white: a photo with much of them is exposed too little or too long.
    `bits` is a perceptual hash, bool [63]: which of the lowest frequencies of a 32 x 32 gray picture are
    above their median. `colors` is an 8 x 8 picture.
    """

    pixels: int
    sharpness: float
    brightness: float
    clipped: float
    bits: npt.NDArray[np.bool_]
    colors: npt.NDArray[np.int16]

    def is_like(self, other: Signature) -> bool:
        """Whether the two look like one photo, also after resizing or compressing; not after cropping."""
        different_bits = int(np.count_nonzero(self.bits != other.bits))
        different_colors = float(np.abs(self.colors - other.colors).mean())
        return (
            different_bits <= defaults.MAX_DIFFERENT_BITS
            and different_colors <= defaults.MAX_COLOR_DIFFERENCE
        )


def signature(data: bytes) -> Signature | str:
    """The Signature of a photo; "" if OpenCV cannot read it."""
    cv2 = _cv2()
    image = decoded(data, side=sys.maxsize)
    if image is None:
        return ""
    height, width = image.shape[:2]
    gray = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    scale = min(1.0, defaults.SHARPNESS_SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    at_scale = cv2.resize(gray, size, interpolation=cv2.INTER_AREA)
    sharpness = float(cv2.Laplacian(at_scale, cv2.CV_64F).var())
    clipped = float(np.mean((at_scale <= defaults.BLACK) | (at_scale >= defaults.WHITE)))
    small = cv2.resize(gray, (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32)
    low = cv2.dct(small)[:8, :8].reshape(-1)[1:]  # without the mean
    colors = cv2.resize(image, (8, 8), interpolation=cv2.INTER_AREA).astype(np.int16)
    return Signature(
        width * height,
        sharpness,
        float(at_scale.mean() / 255),
        clipped,
        np.asarray(low > np.median(low)),
        colors,
    )
