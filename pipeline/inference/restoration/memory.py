"""How the C library hands memory to a network that runs on a CPU."""

from __future__ import annotations

import ctypes
import sys
from typing import Final

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_MAX: Final = -4
"""Parameters of glibc's mallopt(3)."""

_LARGEST_INT: Final = 2**31 - 1


def keep_freed_memory() -> None:
    """Let this process keep what it frees, for the next layer or slice; on Linux with glibc, else do nothing.

    The features of one layer of a 512² slice are tens of MB. glibc gives blocks of that size back to the
    system at once, which then clears every page anew for the next layer, and a fast layer waits for that.
    The price is that the process stays as large as it ever was.
    """
    if sys.platform != "linux":
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library
        return
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, _LARGEST_INT)
