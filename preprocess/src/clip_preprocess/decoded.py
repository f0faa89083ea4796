"""The value that both decoders return and resample.py takes."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from clip_preprocess.notices import Notice


@dataclass(frozen=True)
class Decoded:
    """A photo's pixels as they are stored: in their own mode, not yet oriented, resized or cropped."""

    picture: Image.Image
    size: tuple[int, int]
    """(width, height) as stored. The picture is smaller if a JPEG was decoded at a reduced scale."""
    orientation: int = 1
    """EXIF's 1-8, still to be applied; 1 if there is none or the settings ignore it."""
    scale: int = 1
    """The divisor of both sides in decoding; sides are rounded up."""
    notices: tuple[Notice, ...] = ()
    """Found in decoding; those of its header are in the Header."""
