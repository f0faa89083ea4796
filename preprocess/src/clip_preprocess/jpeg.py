"""The JPEG policy: which decoder, at which scale, what counts as damage, and when to decode again.

- libjpeg-turbo (clip_preprocess.jpeg_turbo) decodes gray and color files and reports damage. Pillow decodes
  CMYK, and what libjpeg-turbo rejects for a reason other than damage.
- `exact` decodes at full scale. `high` and `fast` decode at the smallest scale that keeps both sides at least
  3 or 2 times as long as the resized ones.
- Damaged data is an error, except for the padding that some cameras write before the end marker.
- With `allow_truncated`, a file that ends early is decoded again without strictness, and gets a notice.
"""

from __future__ import annotations

from PIL import Image

from clip_preprocess import exif, formats, geometry, jpeg_turbo, pillow_decoder
from clip_preprocess.decoded import Decoded
from clip_preprocess.errors import ErrorCode, ItemError
from clip_preprocess.headers.base import Data, damaged
from clip_preprocess.headers.jpeg import JpegHeader
from clip_preprocess.limits import check_sides
from clip_preprocess.notices import Notice, NoticeCode
from clip_preprocess.settings import PreprocessSettings

MOST_DECLARED = 4
"""How many times max_pixels a JPEG may declare if it is decoded at a reduced scale."""
_MARGINS = {"high": 3, "fast": 2}
"""Minimum ratio of the decoded sides to the resized ones."""
# Parts of libjpeg-turbo's texts.
_TRUNCATED = "Premature end of JPEG file"
_DAMAGED = "Corrupt JPEG data"
_LEFT_OVER = "extraneous bytes before marker 0xd9"


def decode(data: Data, header: JpegHeader, settings: PreprocessSettings) -> Decoded:
    """Raises ItemError: `corrupt`, `truncated`, `too_many_pixels`, and what Pillow's decoder raises."""
    most = settings.limits.max_pixels
    if header.components == 4:
        check_sides("JPEG", header.size, most)
        return pillow_decoder.decode(data, formats.JPEG, header, settings)
    # A single scan is decoded row by row, so only the reduced picture takes memory.
    reducible = header.single_scan and settings.quality != "exact"
    check_sides("JPEG", header.size, MOST_DECLARED * most if reducible else most)
    orientation = exif.of_metadata(header.exif, header.xmp) if settings.apply_exif_orientation else 1
    scale = scale_of(exif.seen_size(header.size, orientation), settings)
    check_sides("JPEG", (-(-header.width // scale), -(-header.height // scale)), most)
    try:
        picture, notices = _decode_turbo(data, header, scale, allow_truncated=settings.allow_truncated)
    except ValueError:
        check_sides("JPEG", header.size, most)
        return pillow_decoder.decode(data, formats.JPEG, header, settings)
    return Decoded(picture, header.size, orientation, scale, notices)


def scale_of(seen: tuple[int, int], settings: PreprocessSettings) -> int:
    """The divisor of both sides for a photo of this size (width, height) after orientation."""
    plan = geometry.plan(seen, settings)
    if settings.quality == "exact" or plan.interpolation == "nearest":
        return 1
    margin = _MARGINS[settings.quality]
    for scale in jpeg_turbo.SCALES:
        if all(-(-side // scale) >= margin * new for side, new in zip(seen, plan.resized, strict=True)):
            return scale
    return 1


def _decode_turbo(
    data: Data, header: JpegHeader, scale: int, *, allow_truncated: bool
) -> tuple[Image.Image, tuple[Notice, ...]]:
    """The picture, and a notice if it is truncated. Raises ItemError, or ValueError: Pillow may decode it."""
    notices: tuple[Notice, ...] = ()
    try:
        return jpeg_turbo.decode(data, header, scale, strict=True), ()
    except ValueError as error:
        failure = _damage(str(error), header)
        if failure is None:
            raise
        if failure.code is ErrorCode.TRUNCATED and allow_truncated:
            notices = (Notice(NoticeCode.TRUNCATED, failure.text),)
        elif _LEFT_OVER not in str(error) or not _ends_with_padding(data):
            raise failure from error
    return jpeg_turbo.decode(data, header, scale, strict=False), notices


def _damage(text: str, header: JpegHeader) -> ItemError | None:
    """libjpeg-turbo's text as an ItemError; None if it is not about damage."""
    if _TRUNCATED in text:
        return damaged(ErrorCode.TRUNCATED, "JPEG", header.size, "the picture data ends too early")
    if _DAMAGED in text:
        return damaged(ErrorCode.CORRUPT, "JPEG", header.size, "its picture data is damaged")
    return None


def _ends_with_padding(data: Data) -> bool:
    """Whether equal bytes precede the end marker, as some cameras write; anything else there is damage."""
    tail = bytes(data[-65536:])
    end = tail.rfind(b"\xff\xd9")
    return end >= 2 and tail[end - 1] == tail[end - 2] in (0x00, 0xFF)
