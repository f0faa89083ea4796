"""Settings of glibc's malloc for a process that sends many photos."""

from __future__ import annotations

import ctypes

from clip_client import defaults

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3


def keep_freed_memory() -> None:
    """Makes glibc reuse the memory of photos that were sent.

    By default it returns the memory to the system and fetches it again page by page, several times per
    photo, which costs a third of the CPU time of `clip-embed`. That command calls this function; a process
    that mostly embeds can do so too. Has no effect without glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(_M_MMAP_THRESHOLD, defaults.MALLOC_MMAP_BYTES)
    mallopt(_M_TRIM_THRESHOLD, defaults.MALLOC_KEPT_BYTES)
