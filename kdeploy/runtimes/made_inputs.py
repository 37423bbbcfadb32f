"""Inputs for a file of which only names, shapes and types are known: seeded noise.

Floats are standard normal numbers. Of integers nobody knows how many there are: wide ones get 0 or
1, which any vocabulary, mask and flag has; bytes any value, as pixels have; a sampling rate the one
that most speech is recorded at.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.errors import ModelError
from kdeploy.tensor_info import TensorInfo

SEED = 0
SAMPLING_RATE = 16_000  # Hz, what speech models are asked with
RATE_NAMES = frozenset({"sr", "sample_rate", "sampling_rate", "rate"})


def takes_rows(info: TensorInfo) -> bool:
    """Return whether an input has a row for each item: its first axis is open, or 1."""
    return bool(info.shape) and (isinstance(info.shape[0], str) or info.shape[0] == 1)


def made_inputs(
    inputs: Sequence[TensorInfo], count: int, generator: np.random.Generator
) -> dict[str, NDArray[Any]]:
    """Return `count` items: rows where the input takes rows, else one array for all of them.

    Raises:
        ModelError: a size beside the batch is open, or the input holds no numbers.
    """
    return {info.name: _made(info, count, generator) for info in inputs}


def _made(info: TensorInfo, count: int, generator: np.random.Generator) -> NDArray[Any]:
    has_rows = takes_rows(info)
    inner = info.shape[1:] if has_rows else info.shape
    batches = {info.shape[0]} if has_rows else set()
    known = batches | {"batch"}
    sizes = [n if isinstance(n, int) else 1 for n in inner if isinstance(n, int) or n in known]
    if len(sizes) != len(inner):
        raise ModelError(
            f"`{info}` leaves sizes open beside the batch",
            hint=f"name them: `--input {info.name}=1,3,224,224`, or the data to measure on "
            "(`--data`)",
        )
    shape: tuple[int, ...] = (count, *sizes) if has_rows else tuple(sizes)
    if info.dtype == "bool":
        return np.ones(shape, bool)
    kind = np.dtype(info.dtype)
    if kind.kind in "iu":
        if info.name.lower() in RATE_NAMES:
            return np.full(shape, SAMPLING_RATE, kind)
        most = 2 if kind.itemsize > 1 else np.iinfo(kind).max + 1
        return np.asarray(generator.integers(most, size=shape)).astype(kind)
    if kind.kind == "f":
        return np.asarray(generator.standard_normal(shape)).astype(kind)
    raise ModelError(
        f"`{info}` holds no numbers that could be made up", hint="name the data (`--data`)"
    )
