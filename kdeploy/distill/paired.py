"""Two models on the same items: how much more often one is right, and how sure that is.

Only items on which they differ say anything (McNemar 1947). The interval is Agresti and Min's,
Statistics in Medicine 2005, doi:10.1002/sim.1781: half an item added to each kind, which keeps it
honest where few items differ, and a width where none does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

QUANTILE = 1.959964
"""Of the standard normal distribution, for 95 %."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedDifference:
    """How much more often one of two models is right than the other, as fractions."""

    value: float
    low: float
    high: float
    """The 95 % interval; of these two models and items like these, not of further trainings."""
    n: int

    @property
    def is_above(self) -> bool:
        return self.low > 0

    @property
    def is_below(self) -> bool:
        return self.high < 0


def paired_difference(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> PairedDifference:
    """Return how much more often `one` is right, of the same items in the same order."""
    assert one.shape == other.shape, "the same items"
    only_one, only_other = int((one & ~other).sum()), int((other & ~one).sum())
    n = one.size
    # Half an item to each of the four cells of the table of right and wrong: n grows by 2.
    total, gained, lost = n + 2, only_one + 0.5, only_other + 0.5
    middle = (gained - lost) / total
    error = math.sqrt(gained + lost - (gained - lost) ** 2 / total) / total
    return PairedDifference(
        value=(only_one - only_other) / n if n else 0.0,
        low=middle - QUANTILE * error,
        high=middle + QUANTILE * error,
        n=n,
    )
