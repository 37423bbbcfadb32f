"""Countable views: each item has a fixed number of augmented versions, the same in every run.

What a teacher says of a version can then be remembered exactly. A view of the whole training part
is made in blocks of neighbours, each under a seed of its own, so that it depends on nothing but the
data, the augmentations and the number of the view: not on the training's seed or batch size.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdeploy.data.contract import Dataset
from kdeploy.named_arrays import by_name

BLOCK = 256
SEED = 20150309  # of the views, whatever the training's own (the date of arXiv:1503.02531)
MEMORY_BYTES = 2 << 30
"""A view that is larger than this lies in a temporary file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """One version of the whole training part."""

    index: int
    count: int
    fingerprint: str
    """Of the data and the definition of all views, not of this one."""
    items: NDArray[Any]
    """As stored, augmented, (items, *shape)."""
    preprocessed: Callable[[NDArray[Any]], Tensor]
    """Turns stored items into a model's input on the training's device."""
    passed: Callable[[int, int], None]
    """To be called with the items done and all items, while a view is worked through."""

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield all items in order, a block at a time, with their places."""
        for start in range(0, len(self.items), BLOCK):
            place = slice(start, min(start + BLOCK, len(self.items)))
            yield place, self.preprocessed(self.items[place])


def order_of_views(count: int, *, seed: int, epoch: int) -> int:
    """Return the view that an epoch shows: all of them in a random order, then all again."""
    cycle, place = divmod(epoch, count)
    # No state is kept: a resumed run finds the same order from seed and epoch alone.
    return int(np.random.default_rng([seed, cycle]).permutation(count)[place])


def augmented(
    stored: NDArray[Any], augment: Callable[[Tensor], Tensor], *, view: int
) -> NDArray[Any]:
    """Return all items in one of their versions, in the type that they are stored in."""
    out = _buffer(stored)
    is_integer = np.issubdtype(stored.dtype, np.integer)
    limits = np.iinfo(stored.dtype) if is_integer else None
    with torch.random.fork_rng(devices=[]):
        for block, start in enumerate(range(0, len(stored), BLOCK)):
            seed = np.random.SeedSequence([SEED, view, block]).generate_state(1)[0]
            torch.manual_seed(int(seed))
            piece = np.array(stored[start : start + BLOCK])
            changed = augment(torch.from_numpy(piece).float())
            if limits is not None:
                # Stored as the data are: uint8 images stay a quarter of the size of float32.
                changed = changed.round().clamp(limits.min, limits.max)
            out[start : start + len(piece)] = changed.numpy()
    return out


def fingerprint_of_views(data: Dataset, count: int) -> str:
    """Return the digest of the training part and of how its views are made."""
    x = data.train.x
    digest = sha256(f"{data.fingerprint} {data.augment} {count} {BLOCK} {SEED}".encode())
    digest.update(f"{version('kornia')} {data.preprocessing.to_dict()}".encode())
    # Which items were kept for training depends on the split, which has a seed of its own.
    arrays = [array for _, array in by_name(x)]
    for part in (part for one in arrays for part in getattr(one, "parts", (one,))):  # of `Joined`
        rows = getattr(part, "order", part)  # of `Rows`: a file too large to be read for this
        digest.update(np.ascontiguousarray(rows).data)
    return digest.hexdigest()


def _buffer(stored: NDArray[Any]) -> NDArray[Any]:
    if stored.nbytes <= MEMORY_BYTES:
        return np.empty(stored.shape, stored.dtype)
    with tempfile.TemporaryFile(prefix="kdeploy-view-") as file:
        return np.memmap(file, stored.dtype, "w+", shape=stored.shape)
