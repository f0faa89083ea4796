"""The JPEG policy: which decoder, at which scale, what counts as damage, and when to decode again.

- libjpeg-turbo (clip_preprocess.jpeg_turbo) decodes and reports damage. Pillow decodes what it rejects for a
  reason other than damage.
- `exact` decodes at full scale. `high` and `fast` decode at the smallest scale that keeps both sides at least
  3 or 2 times as long as the resized ones.
- Damaged picture data is an error. Damage elsewhere is a notice: after a warning, the file is reduced to the
  parts that the pixels depend on (clip_preprocess.jpeg_repair) and decoded again, as strictly.
- With `allow_truncated`, a file that ends early is decoded without strictness, and gets a notice.
"""

from __future__ import annotations

from dataclasses import replace

from PIL import Image

from clip_preprocess import exif, formats, geometry, jpeg_leftover, jpeg_repair, jpeg_turbo, pillow_decoder
from clip_preprocess.decoded import Decoded
from clip_preprocess.errors import ErrorCode, ItemError
from clip_preprocess.headers.base import Data, damaged
from clip_preprocess.headers.jpeg import NO_END, STRAY, JpegHeader, damaged_metadata
from clip_preprocess.limits import check_sides
from clip_preprocess.notices import Notice, NoticeCode
from clip_preprocess.settings import PreprocessSettings

MOST_DECLARED = 4
"""How many times max_pixels a JPEG may declare if it is decoded at a reduced scale."""
_MARGINS = {"high": 3, "fast": 2}
"""Minimum ratio of the decoded sides to the resized ones."""
# Parts of libjpeg-turbo's texts.
_END_OF_DATA = "premature end"
_LEFT_OVER = "extraneous bytes before marker"
_DAMAGED = "Corrupt JPEG data"
_METADATA = {"ICC": "its ICC profile", "JFIF": "its JFIF segment", "Adobe": "its Adobe segment"}


def decode(data: Data, header: JpegHeader, settings: PreprocessSettings) -> Decoded:
    """Raises ItemError: `corrupt`, `truncated`, `too_many_pixels`, and what Pillow's decoder raises."""
    most = settings.limits.max_pixels
    # A single scan is decoded row by row, so only the reduced picture takes memory.
    reducible = header.single_scan and settings.quality != "exact"
    check_sides("JPEG", header.size, MOST_DECLARED * most if reducible else most)
    orientation = exif.of_metadata(header.exif, header.xmp) if settings.apply_exif_orientation else 1
    scale = scale_of(exif.seen_size(header.size, orientation), settings)
    check_sides("JPEG", (-(-header.width // scale), -(-header.height // scale)), most)
    if header.as_written:
        try:
            return Decoded(
                jpeg_turbo.decode(data, header, scale, strict=True), header.size, orientation, scale
            )
        except ValueError as error:
            warning = str(error)
    else:
        warning = ""
    parts = jpeg_repair.parts(data, header)
    try:
        picture, notices = _decode_parts(parts, header, scale, settings.allow_truncated)
    except ValueError:
        check_sides("JPEG", header.size, most)
        decoded = pillow_decoder.decode(parts.file_as_ended(), formats.JPEG, header, settings)
        return replace(decoded, orientation=orientation)
    return Decoded(picture, header.size, orientation, scale, notices or _of_metadata(warning))


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


def _decode_parts(
    parts: jpeg_repair.Parts, header: JpegHeader, scale: int, allow_truncated: bool
) -> tuple[Image.Image, tuple[Notice, ...]]:
    """The picture and notices. Raises ItemError, or ValueError: Pillow may decode it."""
    found = ((STRAY, parts.stray), (NO_END, not parts.ended))
    notices = tuple(notice for notice, is_found in found if is_found)
    try:
        return jpeg_turbo.decode(parts.file(), header, scale, strict=True), notices
    except ValueError as error:
        trimmed = _trimmed(parts, header) if _LEFT_OVER in str(error) else None
        if trimmed:
            return _decode_parts(trimmed, header, scale, allow_truncated)
        failure = _damage(str(error), header, parts)
        if failure is None:
            raise
        if failure.code is not ErrorCode.TRUNCATED or not allow_truncated:
            raise failure from error
        notices = (Notice(NoticeCode.TRUNCATED, failure.text),)
    return jpeg_turbo.decode(parts.file(), header, scale, strict=False), notices


def _trimmed(parts: jpeg_repair.Parts, header: JpegHeader) -> jpeg_repair.Parts | None:
    def decode(file: bytes, scale: int) -> bytes:
        return jpeg_turbo.decode(file, header, scale, strict=True).tobytes()

    return jpeg_leftover.without_stray_ends(parts, header, decode)


def _damage(text: str, header: JpegHeader, parts: jpeg_repair.Parts) -> ItemError | None:
    """libjpeg-turbo's text as an ItemError; None if it is not about damage."""
    if _END_OF_DATA in text and not parts.ended:
        return damaged(ErrorCode.TRUNCATED, "JPEG", header.size, "the picture data ends too early")
    if _DAMAGED in text:
        return damaged(ErrorCode.CORRUPT, "JPEG", header.size, "its picture data is damaged")
    return None


def _of_metadata(warning: str) -> tuple[Notice, ...]:
    """The notice of a warning that is gone without the metadata; none for a file that had to be rewritten."""
    if not warning:
        return ()
    place = next((place for word, place in _METADATA.items() if word in warning), "a part of its header")
    return (damaged_metadata(f"{place} is damaged; the picture is not"),)
