"""The class that a row of logits names; a row of no numbers names none.

`argmax` answers 0 for a row of NaN, and every count of right classes would take it at its word. So
all classes are read here, on this machine and on devices: numpy only.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

NO_CLASS = -1
"""Where the largest logit is NaN or infinite; a logit of -inf only rules its class out."""


def classes_of(logits: NDArray[Any]) -> NDArray[np.int64]:
    """Return the class of each row, (..., classes) to (...); `NO_CLASS` where there is none."""
    largest = logits.max(axis=-1)  # NaN where any of the row is
    found = np.where(np.isfinite(largest), logits.argmax(axis=-1), NO_CLASS)
    return np.asarray(found, np.int64)


def not_finite(classes: NDArray[np.int64], *, what: str = "items") -> str | None:
    """Return which rows have no class, in words; None where all have one."""
    bad = np.flatnonzero(classes.reshape(-1) == NO_CLASS)
    if not len(bad):
        return None
    return (
        f"the logits of {len(bad)} of {classes.size} {what} are NaN or infinite, which is no class"
        f" (the first, counted from 0: {bad[0]})"
    )
