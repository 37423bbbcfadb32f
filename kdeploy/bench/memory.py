"""What this process has needed at most, as the kernel counted it.

VmHWM of /proc/self/status: unlike `ru_maxrss` it starts anew when a program is executed, so it
holds nothing of the parent. Source: proc(5).
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

STATUS = Path("/proc/self/status")


def peak_bytes() -> int:
    """Return the highest resident set size so far."""
    from_kernel = _field("VmHWM")
    if from_kernel is not None:
        return from_kernel
    import resource  # a library of its own: not where the kernel tells

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def swapped_bytes() -> int:
    """Return how much of this process lies in swap now."""
    return _field("VmSwap") or 0


def _field(name: str, status: Path = STATUS) -> int | None:
    if not status.is_file():
        return None
    match = re.search(rf"^{name}:\s*(\d+) kB", status.read_text(), re.MULTILINE)
    return int(match[1]) * 1024 if match else None
