"""What TensorRT measured of its kernels, kept so that the next engine is built in less time."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from kdeploy.system.user_cache import cache_folder
from kdeploy.tensorrt.api import Device

logger = logging.getLogger(__name__)


def timing_cache_of(version: str, device: Device) -> Path:
    """Return the file for this TensorRT on this GPU; timings hold for no other."""
    gpu = "".join(letter if letter.isalnum() else "-" for letter in device.gpu)
    return cache_folder("tensorrt") / f"{version}-{gpu}-{device.compute_capability}.timings"


def read_timings(path: Path) -> bytes:
    """Return what the file holds, nothing where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def write_timings(path: Path, timings: bytes) -> None:
    """Replace the file in one step; where that is not possible, warn: the engine is there."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(timings)
        partial.replace(path)
    except OSError as error:
        logger.warning("cannot keep TensorRT's timings in %s: %s", path, error)
