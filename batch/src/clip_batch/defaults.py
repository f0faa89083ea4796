"""The defaults of this distribution."""

from __future__ import annotations

PARTITION_SIZE = 1000
"""Objects: 2 MB of vectors of 512 numbers. A killed worker loses at most one partition's work."""
PARTITIONS_PER_PART = 500
"""Row groups in one file of a manifest. A worker reads the footer of one such file (0.4 MB) per partition."""
MAX_PARTITION_SIZE = 100_000
"""A worker keeps a partition's vectors in memory: 205 MB of 512 numbers each."""
TABLE_ROWS = 1000
"""Results that wait as Python objects, before they become columns."""
WORKERS = 2
"""Partitions at a time in one process: one fills the requests that the other's end leaves free."""

COMPACT_ROWS = 200_000
"""Rows of a file that `compact` writes: 410 MB of vectors of 512 numbers."""
ROW_GROUP_ROWS = 10_000
LEFTOVER_S = 24 * 3600.0
"""Temporary files of killed processes are removed when they are this old."""

POISON_REFRESH_S = 15.0
"""How old a worker's copy of the list of photos that crash servers may be."""
BUDGET_MIN_OBJECTS = 100
"""A share of failed objects counts once so many are done."""
FOOTERS_AT_ONCE = 16
"""Files whose footers are read at the same time."""

RAY_STORE_BYTES = 100_000_000
"""Ray's shared memory on this machine: tasks and their answers are small."""
RAY_LOSSES = 4
"""How often the same partition may lose its worker before the run ends."""
