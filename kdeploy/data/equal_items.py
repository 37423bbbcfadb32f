"""Items of a part that stand in the training part too, byte for byte: they test memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from kdeploy.data.contract import Parts
from kdeploy.named_arrays import by_name

TOLD = 0.01
"""Of a part, what may stand in the training part without a word."""
MOST_BYTES = 2**31
"""Of the training part: larger ones are not read for this."""


def notes_on_equal_items(parts: Parts, where: str) -> Iterator[str]:
    """Yield, for people, how much of the test and the validation part was there to learn.

    Items that are files, or made one by one, are not read for this.

    Args:
        parts: Checked.
        where: Begins the notes.
    """
    known: set[bytes] | None = None
    for name, split in parts.named():
        if name == "train" or not _is_at_hand(split.x):
            continue
        if known is None:
            known = set(_digests(parts.train.x)) if _is_at_hand(parts.train.x) else set()
        count = sum(digest in known for digest in _digests(split.x))
        if count > TOLD * len(split):
            yield (
                f"{where}: {count} of {len(split)} items of the {name} part stand in the training "
                "part too, equal in every value: what is measured on it is partly memory"
            )


def _is_at_hand(x: Any) -> bool:
    arrays = [array for _, array in by_name(x)]
    return all(isinstance(a, np.ndarray) for a in arrays) and x.nbytes <= MOST_BYTES


def _digests(x: Any) -> Iterator[bytes]:
    """Yield a digest of each item, of all its inputs together."""
    arrays = [array for _, array in by_name(x)]
    for row in range(len(x)):
        digest = hashlib.blake2b(digest_size=16)
        for array in arrays:
            digest.update(np.ascontiguousarray(array[row]).data)
        yield digest.digest()
