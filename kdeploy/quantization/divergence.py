"""Choose a clipping threshold by entropy: the codes shall tell most about the values.

Kullback-Leibler divergence between the histogram, clipped, and what is left of it after rounding
to a few levels (Migacz, 8-bit Inference with TensorRT, GTC 2017).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
# Thresholds that are compared, from `num_levels` bins to all of them.
NUM_THRESHOLDS = 128
# What a level without values is taken to hold: an infinite divergence would say nothing.
SMALLEST_SHARE = 1e-12


def least_divergent(counts: Floats, num_levels: int) -> int:
    """Return how many bins, counted from zero, the levels should cover.

    Args:
        counts: (bins,), how many magnitudes fell into each; more bins than levels.
        num_levels: How many codes there are.
    """
    # The bin of zero holds what a ReLU cut off, exact in any code; it must not decide.
    counts = np.concatenate([counts[1:2], counts[1:]])
    last = int(np.flatnonzero(counts)[-1]) + 1 if counts.any() else 0
    if last <= num_levels:
        return max(last, 1)
    candidates = np.unique(np.linspace(num_levels, last, NUM_THRESHOLDS).astype(np.int64))
    divergences = [divergence(counts[:last], int(kept), num_levels) for kept in candidates]
    return int(candidates[np.argmin(divergences)])


def divergence(counts: Floats, kept: int, num_levels: int) -> float:
    """Return KL(P || Q) in nats.

    P is the histogram of the first `kept` bins, with all that lies beyond added to the last. Q
    spreads what each level got, without what lies beyond, evenly over those of its bins that are
    not empty.
    """
    inside = counts[:kept]
    wanted = inside.copy()
    wanted[-1] += counts[kept:].sum()
    level = np.arange(kept) * num_levels // kept
    is_filled = wanted > 0
    totals = np.bincount(level, inside, num_levels)
    filled = np.bincount(level, is_filled, num_levels)
    spread = np.where(is_filled, (totals / np.maximum(filled, 1))[level], 0.0)
    if not spread.any():
        return float("inf")
    p = wanted[is_filled] / wanted.sum()
    q = np.maximum(spread[is_filled] / spread.sum(), SMALLEST_SHARE)
    return float((p * np.log(p / q)).sum())
