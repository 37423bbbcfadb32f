"""Freed memory that stays with the process for as long as it computes the same thing again.

glibc returns large blocks to the kernel as soon as they are freed, and asks for the next ones anew,
which are then filled with zeros page by page. A training frees and asks for the same sizes in every
step (malloc(3), mallopt(3)). Other C libraries, and whoever set glibc's own variables, are left
as they are.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from collections.abc import Iterator
from typing import Any

# malloc.h; behind each what glibc comes to by itself once large blocks were freed.
M_TRIM_THRESHOLD, TRIM_THRESHOLD = -1, 2**26
M_MMAP_THRESHOLD, MMAP_THRESHOLD = -3, 2**25
M_MMAP_MAX, MMAP_MAX = -4, 65536
NEVER = -1
VARIABLES = (
    "MALLOC_MMAP_MAX_",
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_TRIM_THRESHOLD_",
    "MALLOC_TOP_PAD_",
)
TUNABLES = "GLIBC_TUNABLES"

_lock = threading.Lock()
_users = 0


@contextlib.contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Keep what is freed within; in the end what is not needed goes back. May be nested."""
    global _users
    library = _glibc()
    if library is None:
        yield
        return
    with _lock:
        _users += 1
        library.mallopt(M_MMAP_MAX, 0)  # no block is one of its own that is unmapped when freed
        library.mallopt(M_TRIM_THRESHOLD, NEVER)
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if not _users:
                library.mallopt(M_MMAP_MAX, MMAP_MAX)
                library.mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD)
                library.mallopt(M_TRIM_THRESHOLD, TRIM_THRESHOLD)
                library.malloc_trim(0)


def _glibc() -> Any:
    """Return glibc; None where there is another library, or somebody has set it up."""
    if any(name in os.environ for name in VARIABLES) or "malloc" in os.environ.get(TUNABLES, ""):
        return None
    library = ctypes.CDLL(None)
    has_both = hasattr(library, "gnu_get_libc_version") and hasattr(library, "malloc_trim")
    return library if has_both else None
