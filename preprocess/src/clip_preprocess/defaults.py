"""Every default of this distribution, once."""

from __future__ import annotations

MAX_BYTES = 32 * 1024 * 1024
"""Largest encoded file, in bytes."""
MAX_PIXELS = 100_000_000
"""Most pixels decoded for one photo, at the scale that the decoder chose."""
DECODE_TIMEOUT_S = 30.0
"""Longest time for one photo, from its first byte to its pixels. 100 megapixels take 2 s on an idle core."""

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""OpenAI's normalization of red, green and blue, which open_clip uses by default."""

MAX_RESIZED_PIXELS = 16_000_000
"""Largest picture that is resized whole before its crop is taken, for bit-exactness.

open_clip resizes all of a 5000 x 3 strip to 373,333 x 224 to keep 224 x 224 of it. Beyond this size
(an aspect ratio of 318 at 224 pixels) only the crop is resized, which bounds time and memory and may
differ from open_clip by a few levels, because the filter's windows start elsewhere.
"""
