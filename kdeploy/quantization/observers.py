"""Observers: watch a tensor's values once, then choose the range that its codes shall cover.

`Statistics` sees every batch; a choice is a function `(statistics) -> (low, high)` in `CHOICES`.
The range always holds zero.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Range = tuple[float, float]
# 16 bins for each of the 256 codes of a range that fills the histogram.
NUM_BINS = 8192
# More values of one batch than this are thinned out for the histogram; the extremes never are.
MOST_VALUES = 2**20
# Clipping thresholds that the MSE search tries on each side, as fractions of the extreme.
NUM_CANDIDATES = 64
LOWEST_CANDIDATE = 0.1


@dataclass(slots=True)
class Statistics:
    """What one tensor looked like: the extremes of each batch, and a histogram.

    The histogram spans plus and minus a power of two. When a batch exceeds it, neighbouring bins
    are merged until it fits, so that nothing is lost and nothing is seen twice.
    """

    extremes: list[Range] = field(default_factory=list)
    counts: NDArray[np.float64] = field(default_factory=lambda: np.zeros(NUM_BINS))
    bound: float = 0.0

    def see(self, batch: Tensor) -> None:
        """Take one batch into account."""
        values = batch.detach().reshape(-1).float()
        low, high = (float(v) for v in torch.aminmax(values))
        self.extremes.append((low, high))
        self._widen(max(-low, high))
        if self.bound:
            thinned = values[:: max(1, -(-len(values) // MOST_VALUES))]
            counts = torch.histc(thinned, NUM_BINS, -self.bound, self.bound)
            self.counts += counts.double().cpu().numpy()

    @property
    def centres(self) -> NDArray[np.float64]:
        """Return the middle of each bin (NUM_BINS,)."""
        width = 2 * self.bound / NUM_BINS
        return np.asarray((np.arange(NUM_BINS) + 0.5) * width - self.bound, np.float64)

    def _widen(self, largest: float) -> None:
        if not np.isfinite(largest) or largest <= self.bound:
            return
        if not self.bound:
            self.bound = 2.0 ** np.ceil(np.log2(largest))
        while self.bound < largest:
            quarter = np.zeros(NUM_BINS // 4)
            self.counts = np.concatenate([quarter, self.counts.reshape(-1, 2).sum(1), quarter])
            self.bound *= 2


def min_max(statistics: Statistics) -> Range:
    """Return the smallest and the largest value seen."""
    lows, highs = zip(*statistics.extremes, strict=True)
    return min(0.0, *lows), max(0.0, *highs)


def mse(statistics: Statistics) -> Range:
    """Return the range of the least mean squared error over 256 codes; its ends may be clipped.

    Both ends are searched in turn on the histogram, twice: the error is smooth in each.
    """
    low, high = min_max(statistics)
    fractions = np.linspace(LOWEST_CANDIDATE, 1.0, NUM_CANDIDATES)
    seen = statistics.counts > 0
    centres, counts = statistics.centres[seen], statistics.counts[seen]
    if not len(centres) or low == high:
        return low, high
    lows, highs = low * fractions, high * fractions
    for _ in range(2):
        high = highs[np.argmin(_errors(centres, counts, np.full_like(highs, low), highs))]
        low = lows[np.argmin(_errors(centres, counts, lows, np.full_like(lows, high)))]
    return float(low), float(high)


def _errors(
    centres: NDArray[np.float64],
    counts: NDArray[np.float64],
    lows: NDArray[np.float64],
    highs: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return the squared error of each candidate range."""
    scales = np.maximum((highs - lows) / 255, np.finfo(np.float64).tiny)[:, None]
    zero_points = np.rint(-lows[:, None] / scales)
    codes = np.clip(np.rint(centres / scales) + zero_points, 0, 255)
    return np.asarray(((codes - zero_points) * scales - centres) ** 2 @ counts)


CHOICES: Mapping[str, Callable[[Statistics], Range]] = {"min_max": min_max, "mse": mse}
