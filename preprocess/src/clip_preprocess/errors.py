"""The errors of this distribution.

ClipPreprocessError
├── ItemError        one photo cannot become pixels; its neighbors are not affected
└── SettingsError    the settings themselves are incomplete or invalid
"""

from __future__ import annotations

import traceback
from enum import Enum


class ErrorCode(str, Enum):
    """Stable codes of an ItemError. Their meaning never changes; new ones may be added."""

    EMPTY = "empty"
    UNSUPPORTED_FORMAT = "unsupported_format"
    CORRUPT = "corrupt"
    TRUNCATED = "truncated"
    TOO_MANY_BYTES = "too_many_bytes"
    TOO_MANY_PIXELS = "too_many_pixels"
    TOO_COMPLEX = "too_complex"
    DECODE_TIMEOUT = "decode_timeout"
    INTERNAL = "internal"


class ClipPreprocessError(Exception):
    """Base of all errors that this distribution raises on purpose."""


class ItemError(ClipPreprocessError):
    """One photo cannot become pixels; its neighbors are not affected."""

    def __init__(self, code: ErrorCode, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text

    def wire(self) -> str:
        """The form that travels to a client: the code, a colon, a space, and the text."""
        return f"{self.code.value}: {self.text}"


class SettingsError(ClipPreprocessError):
    """A setting is missing or has an invalid value; the text names it."""


def forget(error: BaseException | None) -> None:
    """Frees the locals of the functions that raised `error`, often a picture.

    The frames and the error refer to each other, so only the garbage collector would free them, much later.
    """
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
