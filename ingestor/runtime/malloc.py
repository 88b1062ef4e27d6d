"""Memory that is freed stays with the process, for the next block.

A run allocates and frees buffers of some hundred KiB thousands of times a second. glibc by default
gives each back to the kernel at once (a mapping of its own, or the trimmed top of the heap), and
every page of the next one is then faulted in and zeroed anew: on a virtual machine that costs more
than all that is done with the bytes. What is kept is bounded by what the run holds at its peak,
which is bounded by rings and windows.
"""

from __future__ import annotations

import ctypes
from typing import Final

KEPT_BYTES: Final = 64 * 1024 * 1024
"""Free memory at the top of the heap beyond this goes back to the kernel."""

MAPPED_FROM_BYTES: Final = 32 * 1024 * 1024
"""Only a buffer of this size gets a mapping of its own; glibc allows no larger threshold."""

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3


def keep_freed_memory() -> bool:
    """Tell the C library (mallopt(3)); False where it is none that knows how."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    kept = mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)
    mapped = mallopt(_M_MMAP_THRESHOLD, MAPPED_FROM_BYTES)
    return bool(kept and mapped)
