"""Pictures with OpenCV: thumbnails, sharpness and perceptual hashes. Needs the extra `images`."""

from __future__ import annotations

import base64
import os
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
    for flag in flags:
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
