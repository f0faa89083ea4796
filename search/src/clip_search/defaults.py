"""The defaults of this distribution."""

from __future__ import annotations

COUNT = 10
"""Matches of a query."""

READ_ROWS = 10_000
"""Rows decoded at once: 20 MB of vectors of 512 numbers."""
BLOCK_ROWS = 65_536
"""Rows compared at once."""

THUMBNAIL = 300
"""Pixels of the longer side."""
THUMBNAIL_QUALITY = 78
MAX_IMAGE_PIXELS = 200_000_000
"""OpenCV does not decode larger pictures."""
LOADS = 8
"""Photos loaded at the same time."""

TABLE = "photos"
"""The table or collection of a database."""
LOAD_ROWS = 1000
"""Rows written at once."""
LANCEDB_INDEX_ROWS = 10_000
VERIFIED_ROWS = 1000
"""About how many vectors are read back after a load."""
VERIFY_TOLERANCE = 1e-5
"""Qdrant normalizes vectors again."""
