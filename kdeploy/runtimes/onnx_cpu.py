"""What ONNX files and ORT files on the processor share: whether the library is here, and threads.

Imports nothing heavy: it is part of every measured process.
"""

from __future__ import annotations

import importlib.util


def without_library() -> str | None:
    """Return why ONNX Runtime cannot run here, with the remedy; None when it may."""
    if importlib.util.find_spec("onnxruntime") is None:
        return "the library `onnxruntime` is not installed: pip install onnxruntime"
    return None


def threads_or_all(threads: int | None) -> int:
    """Return the threads asked for; none: as many as cores that this process may use."""
    if threads:
        return threads
    from kdeploy.machine import allowed_cores  # whoever measures memory gives `threads`

    return allowed_cores()
