"""The NVIDIA driver: whether there is one, and which CUDA it runs.

To be asked before any object of TensorRT is made: without a driver, or with one that is too old
for its CUDA, making one ends the process. Nothing is initialised by asking.
"""

from __future__ import annotations

import ctypes
import importlib.util

LIBRARY = "libcuda.so.1"


def without_driver() -> str | None:
    """Return what to say where there is no driver, with the remedy; None where there is one."""
    try:
        ctypes.CDLL(LIBRARY)
    except OSError:
        return f"there is no NVIDIA driver here ({LIBRARY}): install it, or use another runtime"
    return None


def without_gpu() -> str | None:
    """Return what to say where there is no driver, or torch sees no GPU, with the remedy."""
    reason = without_driver()
    if reason is not None:
        return reason
    if importlib.util.find_spec("torch") is None:
        return "the library `torch`, which keeps inputs on the GPU, is not installed"
    import torch

    if not torch.cuda.is_available():
        return "this torch sees no GPU: install its CUDA build, see https://pytorch.org"
    return None


def cuda_major() -> int | None:
    """Return the newest major version of CUDA that the driver runs; None where it does not say."""
    version = ctypes.c_int()
    try:
        if ctypes.CDLL(LIBRARY).cuDriverGetVersion(ctypes.byref(version)) != 0:
            return None
    except (OSError, AttributeError):
        return None
    return version.value // 1000  # 13020 is CUDA 13.2
