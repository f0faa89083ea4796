"""Limits that are checked on a photo's length and header, before any pixel is decoded."""

from __future__ import annotations

from clip_preprocess.errors import ErrorCode, ItemError
from clip_preprocess.headers.base import damaged

MAX_SIDE = 1_000_000
"""Longest side in pixels that is decoded, whatever max_pixels allows."""


def check_bytes(length: int, max_bytes: int) -> None:
    """Raises ItemError: `empty`, `too_many_bytes`."""
    if not length:
        raise ItemError(ErrorCode.EMPTY, "the file has no bytes")
    if length > max_bytes:
        raise ItemError(
            ErrorCode.TOO_MANY_BYTES, f"the file has {length:,} bytes, the limit is {max_bytes:,}"
        )


def check_sides(format_name: str, size: tuple[int, int], max_pixels: int) -> None:
    """`size` is (width, height). Raises ItemError: `corrupt` for a side of zero, `too_many_pixels`."""
    width, height = size
    if width < 1 or height < 1:
        raise damaged(ErrorCode.CORRUPT, format_name, size, "a side is zero or negative")
    if width * height > max_pixels or max(size) > MAX_SIDE:
        cause = f"{width * height:,} pixels, the limit is {max_pixels:,} (and {MAX_SIDE:,} per side)"
        raise damaged(ErrorCode.TOO_MANY_PIXELS, format_name, size, cause)
