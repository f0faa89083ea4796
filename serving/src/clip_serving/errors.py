"""The errors of one photo, and of the server as a whole.

ClipServingError
├── ItemError            one photo; travels to the client as "code: text"
├── ConfigurationError   a spec, a setting or a repository that cannot work
├── ServerError          the embedded tritonserver did not start, or died
└── ProfileError         clip-profile cannot go on: photos, run folder, perf_analyzer or server
"""

from __future__ import annotations

from enum import Enum


class ErrorCode(str, Enum):
    """Stable codes of the `error` output. Their meaning never changes; new ones may be added."""

    EMPTY = "empty"
    UNSUPPORTED_FORMAT = "unsupported_format"
    CORRUPT = "corrupt"
    TRUNCATED = "truncated"
    TOO_MANY_BYTES = "too_many_bytes"
    TOO_MANY_PIXELS = "too_many_pixels"
    TOO_COMPLEX = "too_complex"
    DECODE_TIMEOUT = "decode_timeout"
    INTERNAL = "internal"


class ClipServingError(Exception):
    """Base of all errors that this distribution raises on purpose."""


class ItemError(ClipServingError):
    """One photo cannot become pixels; its neighbours are not concerned.

    `partial` is set where the photo has pixels all the same (`allow_truncated`), and this says what
    is wrong with them.
    """

    def __init__(self, code: ErrorCode, text: str, *, partial: bool = False) -> None:
        super().__init__(text)
        self.code = code
        self.text = text
        self.partial = partial

    def wire(self) -> str:
        """The `error` output's string: the code, a colon, a space, and the text for people."""
        return f"{self.code.value}: {self.text}"


class ConfigurationError(ClipServingError):
    """A spec, a setting or a model repository that cannot work; the text says the way out."""


class ServerError(ClipServingError):
    """The embedded tritonserver did not start, or ended; the text holds the cause."""


class ProfileError(ClipServingError):
    """A measurement that cannot be made, kept or read; the text says the way out."""
