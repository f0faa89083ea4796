"""The value that every header reader returns, and the errors that it raises."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from clip_preprocess.errors import ErrorCode, ItemError
from clip_preprocess.notices import Notice

Data: TypeAlias = bytes | memoryview
"""One encoded photo: the content of its file."""


@dataclass(frozen=True)
class Header:
    """The sides in pixels as stored, before EXIF orientation is applied."""

    format: str
    width: int
    height: int
    notices: tuple[Notice, ...] = field(default=(), kw_only=True)
    repaired: bytes | None = field(default=None, kw_only=True, repr=False)
    """The file for the decoder, if it would reject the one that was sent for something other than pixels."""

    @property
    def size(self) -> tuple[int, int]:
        return self.width, self.height


def damaged(code: ErrorCode, format_name: str, size: tuple[int, int] | None, cause: str) -> ItemError:
    """An ItemError whose text names the format, the size if known, and the cause."""
    sides = f" {size[0]}x{size[1]}" if size else ""
    return ItemError(code, f"{format_name}{sides}: {cause}")


def header_cut(format_name: str, size: tuple[int, int] | None = None) -> ItemError:
    """The `truncated` error for a file that ends within its header."""
    return damaged(ErrorCode.TRUNCATED, format_name, size, "the file ends within its header")
