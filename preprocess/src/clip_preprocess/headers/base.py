"""What every header reader gives, and how it complains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from clip_preprocess.errors import ErrorCode, ItemError

Data: TypeAlias = bytes | memoryview


@dataclass(frozen=True)
class Header:
    """The sides in pixels as stored, before any orientation is applied."""

    format: str
    width: int
    height: int

    @property
    def size(self) -> tuple[int, int]:
        return self.width, self.height


def damaged(code: ErrorCode, format_name: str, size: tuple[int, int] | None, cause: str) -> ItemError:
    """An ItemError whose text names the format, the size where it is known, and the cause."""
    sides = f" {size[0]}x{size[1]}" if size else ""
    return ItemError(code, f"{format_name}{sides}: {cause}")
