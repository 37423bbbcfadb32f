"""What is the same in every interpreter of `.tflite` files: their beginning, and codes of tensors.

Inputs and outputs of an INT8 file are codes, which stand for real numbers by a scale and a zero
point: `real = (code - zero point) * scale`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kdeploy.errors import FileMissing, ModelError
from kdeploy.runtimes.contract import Array

IDENTIFIER = b"TFL3"
"""Of the flatbuffer, in its bytes 4 to 7."""
ELIGIBLE = frozenset(
    {
        *("CONV_2D", "DEPTHWISE_CONV_2D", "CONV_3D", "TRANSPOSE_CONV"),
        *("FULLY_CONNECTED", "BATCH_MATMUL"),
    }
)
CODES = ("int8", "uint8")


def check_beginning(path: Path) -> None:
    """Refuse what is no file of LiteRT.

    Raises:
        FileMissing: there is none.
        ModelError: it begins otherwise.
    """
    if not path.is_file():
        raise FileMissing(f"there is no file {path}", hint="`kdeploy export litert` writes one")
    with path.open("rb") as file:
        found = file.read(8)[4:]
    if found != IDENTIFIER:
        raise ModelError(
            f"{path} is no file of LiteRT: it begins otherwise",
            hint="export it again: `kdeploy export litert`",
        )


def has_codes(detail: Mapping[str, Any]) -> bool:
    """Return whether a tensor holds codes; `quantization` is its scale and zero point."""
    return bool(detail["quantization"][0]) and np.dtype(detail["dtype"]).name in CODES


def encoded(array: Array, detail: Mapping[str, Any]) -> Array:
    """Return real numbers as the codes of a tensor, where it holds codes."""
    if not has_codes(detail):
        return array
    scale, zero_point = detail["quantization"]
    bounds = np.iinfo(detail["dtype"])
    # As PyTorch's graph does it, so that a value on an edge falls to the same side.
    codes = np.rint(array * (np.float32(1) / np.float32(scale))) + zero_point
    return np.asarray(np.clip(codes, bounds.min, bounds.max)).astype(detail["dtype"])


def decoded(array: Array, detail: Mapping[str, Any]) -> Array:
    """Return what the codes of a tensor stand for, where it holds codes."""
    if not has_codes(detail):
        return array
    scale, zero_point = detail["quantization"]
    return np.asarray((array.astype(np.float32) - zero_point) * np.float32(scale), np.float32)
