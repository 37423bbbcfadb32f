"""State that a file carries from one call to the next: an output that is fed back as an input.

Found by names: `state` comes back as `stateN`, `h` as `hn` or `h_out`, `cache` as `new_cache`. Both
ends must hold the same type and number of sizes. A stream begins with zeros.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.tensor_info import TensorInfo

SUFFIXES = ("n", "_n", "_next", "_new", "_out", "next", "new", "out", ".next", ".out")
PREFIXES = ("new_", "next_", "out_", "new", "next", "out")


def carried(inputs: Sequence[TensorInfo], outputs: Sequence[TensorInfo]) -> dict[str, str]:
    """Return the output that is fed back to each input that is a state, by the inputs' names."""
    pairs: dict[str, str] = {}
    for info in inputs:
        for output in outputs:
            if _is_next(info.name, output.name) and _fits(info, output):
                pairs[info.name] = output.name
                break
    # A file whose inputs are all states would have nothing to be asked.
    return pairs if len(pairs) < len(inputs) else {}


def beginning(inputs: Sequence[TensorInfo], pairs: Mapping[str, str]) -> dict[str, NDArray[Any]]:
    """Return the state before the first call: zeros, open sizes 1."""
    return {
        info.name: np.zeros([n if isinstance(n, int) else 1 for n in info.shape], info.dtype)
        for info in inputs
        if info.name in pairs
    }


def _is_next(name: str, other: str) -> bool:
    known, following = name.lower(), other.lower()
    after = [known + suffix for suffix in SUFFIXES] + [prefix + known for prefix in PREFIXES]
    return following in after


def _fits(one: TensorInfo, other: TensorInfo) -> bool:
    """Return whether one may be the other's successor: the same type and sizes where both tell."""
    return (
        one.dtype == other.dtype
        and len(one.shape) == len(other.shape)
        and all(
            a == b or isinstance(a, str) or isinstance(b, str)
            for a, b in zip(one.shape, other.shape, strict=True)
        )
    )
