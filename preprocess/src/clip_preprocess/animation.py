"""Animations whose first frame is empty: the first frame with content takes its place.

Some GIF, WebP and APNG files begin with a blank or transparent frame, which all have the same vector.
"""

from __future__ import annotations

from collections.abc import Callable

from PIL import Image, ImageFile

from clip_preprocess.notices import Notice, NoticeCode
from clip_preprocess.settings import Quality

MAX_FRAMES = 32
"""Frames that are looked at for one with content."""
MAX_FRAME_PIXELS = 200_000_000
"""Pixels of those frames, all together."""
MAX_CANVAS_PIXELS = 25_000_000
"""Of larger animations the first frame is embedded: the decoders hold several canvases."""

_COUNTED = ("WEBP", "PNG", "AVIF")
"""Formats whose header has the number of frames. Counting the pages of a TIFF would read them all."""


def with_content(
    picture: ImageFile.ImageFile, reopen: Callable[[], ImageFile.ImageFile], quality: Quality
) -> tuple[Image.Image, tuple[Notice, ...]]:
    """`picture`, loaded, or a later frame if it is the blank first frame of an animation, and a notice.

    Quality `exact` keeps the first frame, as open_clip does.
    """
    if picture.format == "GIF":  # counting frames would unload the picture
        if not _is_blank(picture) or not _has_second_frame(reopen()):
            return picture, ()
    elif picture.format not in _COUNTED or getattr(picture, "n_frames", 1) < 2 or not _is_blank(picture):
        return picture, ()
    if quality == "exact":
        text = "the first frame is blank; quality exact embeds it, as open_clip does"
        return picture, (Notice(NoticeCode.OTHER_PICTURE, text),)
    if picture.width * picture.height > MAX_CANVAS_PIXELS:
        text = "the first frame is blank and was embedded; the picture is too large to look at others"
        return picture, (Notice(NoticeCode.OTHER_PICTURE, text),)
    first = picture.copy()
    most = min(MAX_FRAMES, max(MAX_FRAME_PIXELS // (picture.width * picture.height), 1))
    for index in range(1, most):
        try:
            picture.seek(index)
            picture.load()
        except Exception:  # the end, or a damaged frame
            break
        if not _is_blank(picture):
            text = f"the first frame is blank; frame {index + 1} was embedded"
            return picture, (Notice(NoticeCode.OTHER_PICTURE, text),)
    return first, (Notice(NoticeCode.OTHER_PICTURE, "the first frames are blank; the first was embedded"),)


def _has_second_frame(gif: ImageFile.ImageFile) -> bool:
    """Pillow raises many types for a file that is cut in its second frame; the first one is whole."""
    try:
        gif.seek(1)
    except Exception:
        return False
    return True


def _is_blank(picture: Image.Image) -> bool:
    """Whether all pixels are transparent, or of one color. A GIF's transparent pixels have one index."""
    if picture.format != "GIF" and picture.has_transparency_data:
        alpha = picture if picture.mode == "RGBA" else picture.convert("RGBA")
        if alpha.getchannel("A").getextrema() == (0, 0):
            return True
    extrema = picture.getextrema()
    bands = [extrema] if isinstance(extrema[0], int | float) else extrema
    return all(lowest == highest for lowest, highest in bands)
