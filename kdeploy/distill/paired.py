"""Two models on the same items: how much better one is, and how sure that is.

Of items that are right or wrong, only those on which they differ say anything (McNemar 1947). The
interval is Agresti and Min's, Statistics in Medicine 2005, doi:10.1002/sim.1781: half an item added
to each kind, which keeps it honest where few items differ, and a width where none does. Of other
scores it is Student's, of the differences of the items.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

QUANTILE = 1.959964
"""Of the standard normal distribution, for 95 %."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedDifference:
    """How much better one of two models is than the other: more often right, as fractions."""

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


def paired_difference(one: NDArray[Any], other: NDArray[Any]) -> PairedDifference:
    """Return how much better `one` is, of the same items in the same order.

    Args:
        one: Scores (N,): whether each item is right, or numbers whose mean counts.
        other: The same of the other model.
    """
    assert one.shape == other.shape, "the same items"
    return _of_right_or_not(one, other) if one.dtype == bool else _of_numbers(one, other)


def _of_right_or_not(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> PairedDifference:
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


def _of_numbers(one: NDArray[Any], other: NDArray[Any]) -> PairedDifference:
    from scipy.stats import t as student_t

    apart = one.astype(np.float64) - other
    n, value = apart.size, float(apart.mean()) if apart.size else 0.0
    if n < 2:
        return PairedDifference(value=value, low=min(value, -1.0), high=max(value, 1.0), n=n)
    error = float(student_t.ppf(0.975, n - 1)) * float(apart.std(ddof=1)) / math.sqrt(n)
    return PairedDifference(value=value, low=value - error, high=value + error, n=n)
