"""The result for one photo: its embedding or error, and what the server noticed about its file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from clip_client.errors import ItemError

Embedding = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Notice:
    """The server's remark about a photo that it embedded. Its `code` is stable, `text` is for people."""

    code: str
    text: str

    @classmethod
    def from_wire(cls, line: str) -> Notice:
        """Reads the server's "code: text"."""
        code, _, text = line.partition(": ")
        return cls(code, text or code)


@dataclass(frozen=True, eq=False)
class PhotoResult:
    """One photo's `embedding`, float32 [D], or the `error` that prevents it; the other one is None.

    `width` and `height` are those in the file, in pixels, before EXIF orientation. `decode_scale` (1, 2, 4
    or 8) is the divisor at which a JPEG was decoded. These and `format` are None if they are unknown: the
    photo did not reach the server, it could not be read, or the server is of an older release.
    """

    embedding: Embedding | None = None
    error: ItemError | None = None
    notices: tuple[Notice, ...] = ()
    """At most one per code."""
    width: int | None = None
    height: int | None = None
    format: str | None = None
    decode_scale: int | None = None

    @classmethod
    def of(cls, outcome: Embedding | ItemError, **facts: Any) -> PhotoResult:
        """From an embedding or an error; `facts` are the other fields."""
        if isinstance(outcome, ItemError):
            return cls(error=outcome, **facts)
        return cls(outcome, **facts)

    @property
    def outcome(self) -> Embedding | ItemError:
        """The embedding, or the error."""
        outcome = self.embedding if self.error is None else self.error
        assert outcome is not None
        return outcome
