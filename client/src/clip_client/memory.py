"""How this process's C library treats memory that was freed: glibc's malloc, told once."""

from __future__ import annotations

import ctypes

from clip_client import defaults

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3


def keep_freed_memory() -> None:
    """Lets glibc keep the memory of photos that have been sent for those that come next.

    It would return each to the system and fetch it again page by page, several times a photo, which is a
    third of what `clip-embed` costs. It calls this; a process that only embeds may do so too. Elsewhere
    than on glibc nothing happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(_M_MMAP_THRESHOLD, defaults.MALLOC_MMAP_BYTES)
    mallopt(_M_TRIM_THRESHOLD, defaults.MALLOC_KEPT_BYTES)
