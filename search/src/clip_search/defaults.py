"""The defaults of this distribution."""

from __future__ import annotations

import os

COUNT = 10
"""Matches of a query."""

PAGE_COUNT = 24
"""Matches on the page of `clip-search serve`."""
PORT = 8600
UPLOAD_BYTES = 50 * 1024 * 1024
"""Of a photo that is sent to the page."""

READ_ROWS = 500
"""Rows decoded at once: 1 MB of vectors of 512 numbers."""
READ_BYTES = 256 * 1024
"""Read at once; without, a whole row group is."""
READERS = min(4, os.cpu_count() or 1)
"""Threads that decode vectors. Each keeps about 10 MB."""
BLOCK_ROWS = 65_536
"""Rows compared at once."""

THUMBNAIL = 300
"""Pixels of the longer side."""
THUMBNAIL_QUALITY = 78
MAX_IMAGE_PIXELS = 100_000_000
"""OpenCV does not decode larger pictures."""
LOADS = 4
"""Photos loaded at the same time."""
LOAD_TIMEOUT_S, STALL_TIMEOUT_S = 30.0, 10.0
"""For one photo, retries included, and without any data: a person waits for it."""

INDEX_ROWS = 500_000
"""From here on, a query without an index mentions it."""
ADD_ROWS = 4096
"""Rows added to an index at once. Meanwhile they are in memory three times."""
LIST_ROWS = 40
"""The least mean number of rows in a list of an index."""
TRAINING_ROWS = 40
"""For each list, rows that choose its center."""
TRAINING_ROUNDS = 8
"""Of k-means."""
LEAST_PROBES = 16
"""Lists compared in a query. Texts need more than photos, for which the recall is measured."""
RECALL = 0.99
HELD_OUT_ROWS = 200
"""Queries for which the recall is measured."""

TABLE = "photos"
"""The table or collection of a database."""
LOAD_ROWS = 1000
"""Rows written at once."""
LANCEDB_INDEX_ROWS = 10_000
VERIFIED_ROWS = 1000
"""About how many vectors are read back after a load."""
VERIFY_TOLERANCE = 1e-5
"""Qdrant normalizes vectors again."""

THRESHOLD = 0.95
"""The least cosine of near duplicates, before they are verified."""
TILE_ROWS = 4096
"""Rows compared with as many others at once: 64 MB."""
ALL_PAIRS_ROWS = 20_000
"""Up to here, every row is compared with every other."""
CELLS = 4
"""Of each row, above."""
TIE = 1e-4
"""Centers whose cosines with a row differ by less count as equally near."""
MAX_NEAR = 16
"""Others that a row is paired with in one tile."""
BLACK, WHITE = 3, 252
"""Gray levels up to and from which a pixel is clipped."""
SHARPNESS_SIDE = 512
AS_SHARP = 0.8
"""Of the sharpest: copies above this are as sharp."""
MAX_DIFFERENT_BITS = 10
"""Of the 63 of a perceptual hash."""
MAX_COLOR_DIFFERENCE = 24.0
"""Mean difference of two 8 x 8 pictures, in levels of 255."""

TEMPLATES = ("a photo of a {}.", "a photo of the {}.", "a close-up photo of a {}.", "a photo of {}.")
"""Prompts for a label."""
LABELS = 3
"""Labels stored for each photo."""
