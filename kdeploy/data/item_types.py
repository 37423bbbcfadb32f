"""What to do with items of another type or layout than a model takes, said for what was found."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

LOOKED_AT = 1024  # items: all of a large file would take long to read
MOST_COLOURS = 4  # an axis so short, beside longer ones, is that of RGB or RGBA


def type_hint(x: NDArray[Any]) -> str:
    """Return how to store items whose type is not taken."""
    kind, name = x.dtype.kind, x.dtype.name
    some = np.atleast_1d(x)[:LOOKED_AT]
    if kind == "f":
        sizes = np.abs(np.asarray(some, np.float64))
        top = float(sizes[np.isfinite(sizes)].max(initial=0.0))
        if top > float(np.finfo(np.float32).max):
            return f"values reach {top:.3g}, which float32 cannot hold: scale them first"
        return "`x = x.astype('float32')`"
    if kind == "b":
        return "`x = x.astype('uint8') * 255`"
    if kind in "iu" and some.size:
        low, high = int(some.min()), int(some.max())
        if low >= 0 and high <= np.iinfo(np.uint8).max:
            return f"values are {low}..{high}, which uint8 holds: `x = x.astype('uint8')`"
        top = next((top for top in (2**12 - 1, 2**16 - 1) if high <= top), high)
        return (
            f"values are {low}..{high} ({name}): bring them to about 0..1, "
            f"`x = (x / {top}).astype('float32')`"
        )
    if kind == "c":
        return "make channels of both parts: `x = np.stack([x.real, x.imag], 1).astype('float32')`"
    if kind in "US":
        return "text is stored as token ids of a tokenizer, int64 (N, tokens)"
    return "store numbers: uint8 or float32"


def layout_hint(shape: tuple[int, ...]) -> str:
    """Return what an item's shape looks like, if not channels first; "" for nothing to say."""
    if len(shape) in (3, 4) and shape[-1] <= MOST_COLOURS < min(shape[:-1]):
        order = (0, len(shape), *range(1, len(shape)))
        return (
            f"items {shape} look as if the channels came last; they come first: "
            f"`x = x.transpose{order}`"
        )
    if len(shape) == 2 and min(shape) > MOST_COLOURS and shape[0] == shape[1]:
        return (
            f"items {shape} are read as {shape[0]} channels of length {shape[1]}; grey images have "
            "a channel axis: `x = x[:, None]`"
        )
    return ""
