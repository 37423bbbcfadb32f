"""Observers: watch a tensor's values once, then choose the range that its codes shall cover.

`Statistics` sees every batch; `RANGE_ESTIMATORS` are functions `(statistics) -> (low, high)` by
name. A range always holds zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdeploy.quantization.divergence import least_divergent

Range = tuple[float, float]
Floats = NDArray[np.float64]
# 16 bins for each of the 256 codes of a range that fills the histogram.
NUM_BINS = 8192
# More values of one batch than this are thinned out for the histogram; the extremes never are.
MOST_VALUES = 2**15
# The share of values, in percent, that `percentile` covers.
PERCENTILE = 99.99
# How much of each further batch's extremes the moving average takes.
SHARE_OF_A_BATCH = 0.01
# Clipping thresholds that the MSE search tries on each side, as fractions of the extreme.
NUM_CANDIDATES = 64
LOWEST_CANDIDATE = 0.1  # of the largest value: below, everything would be cut off


@dataclass(slots=True)
class Statistics:
    """What one tensor looked like: the extremes of each batch, and a histogram.

    The histogram spans plus and minus a power of two. When a batch exceeds it, neighbouring bins
    are merged until it fits, so that nothing is lost and nothing is seen twice.
    """

    extremes: list[Range] = field(default_factory=list)
    counts: Floats = field(default_factory=lambda: np.zeros(NUM_BINS))
    bound: float = 0.0

    def see(self, batch: Tensor) -> None:
        """Take one batch into account; where a value is not finite, an extreme is not either."""
        values = _in_memory_order(batch.detach()).float()
        low, high = torch.stack(torch.aminmax(values)).tolist()
        self.extremes.append((low, high))
        if not math.isfinite(low) or not math.isfinite(high):
            return
        self._widen(max(-low, high))
        if self.bound:
            counts = torch.histc(_thinned(values), NUM_BINS, -self.bound, self.bound)
            self.counts += counts.double().cpu().numpy()

    def join(self, count: int) -> None:
        """Take the last `count` extremes as those of one batch."""
        if self.extremes:
            lows, highs = zip(*self.extremes[-count:], strict=True)
            self.extremes[-count:] = [(min(lows), max(highs))]

    @property
    def centres(self) -> Floats:
        """Return the middle of each bin (NUM_BINS,)."""
        width = 2 * self.bound / NUM_BINS
        return np.asarray((np.arange(NUM_BINS) + 0.5) * width - self.bound, np.float64)

    def _widen(self, largest: float) -> None:
        if largest <= self.bound:
            return
        if not self.bound:
            # A power of two: doubling it merges whole bins, two into one.
            self.bound = 2.0 ** np.ceil(np.log2(largest))
        while self.bound < largest:
            quarter = np.zeros(NUM_BINS // 4)
            self.counts = np.concatenate([quarter, self.counts.reshape(-1, 2).sum(1), quarter])
            self.bound *= 2


def _in_memory_order(values: Tensor) -> Tensor:
    """Return all values in a row; their order is of no meaning, and this one needs no copy."""
    strides = values.stride()
    return values.permute(sorted(range(values.dim()), key=lambda d: -strides[d])).reshape(-1)


def _thinned(values: Tensor) -> Tensor:
    """Return at most MOST_VALUES of them, at a stride that meets every row and every channel."""
    stride = max(1, -(-len(values) // MOST_VALUES))
    # A stride that shares no factor with the length keeps to no column of the tensor.
    while stride > 1 and math.gcd(stride, len(values)) > 1:
        stride += 1
    return values[::stride]


def min_max(statistics: Statistics) -> Range:
    """Return the smallest and the largest value seen."""
    lows, highs = zip(*statistics.extremes, strict=True)
    return min(0.0, *lows), max(0.0, *highs)


def moving_average(statistics: Statistics) -> Range:
    """Return the batches' extremes, averaged with exponentially fading weights.

    Each batch moves the average by a hundredth, the first one starts it.
    """
    (low, high), *later = statistics.extremes
    for batch_low, batch_high in later:
        low += SHARE_OF_A_BATCH * (batch_low - low)
        high += SHARE_OF_A_BATCH * (batch_high - high)
    return min(0.0, low), max(0.0, high)


def percentile(statistics: Statistics, *, percent: float = PERCENTILE) -> Range:
    """Return the range that leaves out (100 - percent) % of the values, half at either end.

    Of a tensor without negative values all that is left out lies at the upper end. The ends are
    exact to a bin, 1/8192 of the histogram, and never beyond the values seen.
    """
    low, high = min_max(statistics)
    total = statistics.counts.sum()
    if low == high or not total:
        return low, high
    is_one_sided = low == 0.0 or high == 0.0
    outside = (1 - percent / 100) * total / (1 if is_one_sided else 2)
    below = np.cumsum(statistics.counts)
    above = np.cumsum(statistics.counts[::-1])
    width = 2 * statistics.bound / NUM_BINS
    # The outermost bins whose values, with those beyond, are more than may be left out.
    lowest = int(np.searchsorted(below, outside, side="right")) * width - statistics.bound
    highest = statistics.bound - int(np.searchsorted(above, outside, side="right")) * width
    return min(0.0, max(low, lowest)), max(0.0, min(high, highest))


def entropy(statistics: Statistics) -> Range:
    """Return the symmetric range, cut to the values seen, whose codes lose the least information.

    See `divergence.py`. The magnitudes of both signs are looked at together, in 4096 bins.
    """
    low, high = min_max(statistics)
    if low == high:
        return low, high
    negative, positive = np.split(statistics.counts, 2)
    # A signed range spends its codes on both sides, so that each side has half of them.
    num_levels = 256 if low == 0.0 or high == 0.0 else 128
    num_kept = least_divergent(negative[::-1] + positive, num_levels)
    threshold = num_kept * 2 * statistics.bound / NUM_BINS
    return max(low, -threshold), min(high, threshold)


def mse(statistics: Statistics) -> Range:
    """Return the range of the least mean squared error over 256 codes; its ends may be clipped.

    Both ends are searched in turn on the histogram, twice: the error is smooth in each. An end at
    zero stays there, and the other one is searched once.
    """
    low, high = min_max(statistics)
    if low == high or not statistics.counts.any():
        return low, high
    fractions = np.linspace(LOWEST_CANDIDATE, 1.0, NUM_CANDIDATES)
    lows, highs = low * fractions, high * fractions
    sums = _running_sums(statistics)
    width = 2 * statistics.bound / NUM_BINS
    errors = partial(_errors, sums, -statistics.bound, width)
    for _ in range(2 if low < 0 < high else 1):
        if high > 0:
            high = highs[np.argmin(errors(np.full_like(highs, low), highs))]
        if low < 0:
            low = lows[np.argmin(errors(lows, np.full_like(lows, high)))]
    return float(low), float(high)


def _running_sums(statistics: Statistics) -> Floats:
    """Return the sums of 1, x and x^2 over the bins below each bin edge: (3, NUM_BINS + 1)."""
    x = statistics.centres
    powers = statistics.counts * np.stack([np.ones_like(x), x, x**2])
    return np.pad(np.cumsum(powers, axis=1), ((0, 0), (1, 0)))


def _errors(sums: Floats, start: float, width: float, lows: Floats, highs: Floats) -> Floats:
    """Return the squared error of each candidate range, a bin counted at its centre.

    All bins between two borders of codes go to one code c: their error is S2 - 2 c S1 + c^2 S0.
    """
    scales = np.maximum((highs - lows) / 255, np.finfo(np.float64).tiny)[:, None]
    codes = np.arange(256) - np.rint(-lows[:, None] / scales)
    borders = (codes[:, 1:] - 0.5) * scales
    edges = np.ceil((borders - start) / width - 0.5).clip(0, NUM_BINS).astype(np.int64)
    edges = np.pad(edges, ((0, 0), (1, 0)))
    edges = np.pad(edges, ((0, 0), (0, 1)), constant_values=NUM_BINS)
    count, total, squares = np.diff(sums[:, edges], axis=-1)
    values = codes * scales
    return np.asarray((squares - 2 * values * total + values**2 * count).sum(axis=1))


RANGE_ESTIMATORS: Mapping[str, Callable[[Statistics], Range]] = {
    "min_max": min_max,
    "moving_average": moving_average,
    "percentile": percentile,
    "entropy": entropy,
    "mse": mse,
}
