"""AVIF and HEIC: whether the file ends within a box. Their decoders parse the rest."""

from __future__ import annotations

from clip_preprocess.headers.base import Data

_MAX_BOXES = 1_000
_TO_THE_END, _LONG = 0, 1
"""Lengths that stand for the rest of the file, and for a length of 8 bytes behind the name."""


def is_cut(data: Data) -> bool:
    """Walks the boxes of the file, not those inside them."""
    at = 0
    for _ in range(_MAX_BOXES):
        if at + 8 > len(data):
            return at != len(data)
        length = int.from_bytes(data[at : at + 4], "big")
        if length == _LONG:
            length = int.from_bytes(data[at + 8 : at + 16], "big")
        if length == _TO_THE_END or length < 8:
            return False
        at += length
    return False
