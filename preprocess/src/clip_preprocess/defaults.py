"""Every default of this distribution, once."""

from __future__ import annotations

MAX_BYTES = 32 * 1024 * 1024
"""Largest encoded file, in bytes."""
MAX_PIXELS = 100_000_000
"""Most pixels decoded for one photo, at the scale that the decoder chose."""
DECODE_TIMEOUT_S = 30.0
"""Longest time for one photo from its first byte to its pixels; 100 megapixels take 2 s on an idle core."""

MAX_RESIZED_PIXELS = 16_000_000
"""Largest picture that is resized whole before its crop is taken, for bit-exactness.

open_clip resizes all of a 5000 x 3 strip to 373,333 x 224 to keep 224 x 224 of it. Beyond this size
(an aspect ratio of 318 at 224 pixels) only the crop is resized, which bounds time and memory and may
differ from open_clip by some levels: Pillow's filter windows start elsewhere.
"""
