"""Numbers from samples: percentiles and ratios, each with a 95 % interval.

Samples that follow each other are alike, so intervals are drawn over whole rounds (the cluster
bootstrap; Efron, Tibshirani, An Introduction to the Bootstrap, 1993, chapter 8), and widened for
their small number. A ratio of two files that took turns is the Hodges-Lehmann estimate over rounds
with the interval of Wilcoxon's signed-rank test (Annals of Mathematical Statistics 34, 1963): it
asks only that a round disturb one as likely as the other, and a disturbed round moves it little.
Fractions have Wilson's score interval (JASA 22, 1927).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
RESAMPLES = 1000
PIECES = 20  # of the resamples at a time: memory stays small
# Rounds are thinned to their quantiles, so that a fast model's million samples cost nothing.
THINNED = 200
TAIL = 0.025  # on either side of an interval
NORMAL_975 = 1.959964  # the quantile of the standard normal for 95 %, two-sided
PRACTICAL_THRESHOLD = 0.03  # smaller differences are real only on paper
_SEED = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float


def percentiles(rounds: Sequence[Floats], wanted: Sequence[float]) -> list[Estimate]:
    """Return percentiles of all samples, with intervals over rounds."""
    values = np.percentile(np.concatenate(rounds), wanted)
    steps = (np.arange(THINNED) + 0.5) / THINNED  # midpoints, so that neither end counts double
    thinned = np.stack([np.quantile(r, steps) for r in rounds])
    # In pieces, because all resamples of many rounds at once would take hundreds of megabytes.
    drawn = np.concatenate(
        [
            np.percentile(thinned[draws].reshape(len(draws), -1), wanted, axis=1)
            for draws in np.split(_draws(len(rounds)), PIECES)
        ],
        axis=1,
    )
    return [_estimate(float(v), d, len(rounds)) for v, d in zip(values, drawn, strict=True)]


def mean(rounds: Sequence[Floats]) -> Estimate:
    """Return the mean of all samples, with an interval over rounds."""
    sums = np.array([r.sum() for r in rounds])
    return ratio_of_sums(sums, np.array([len(r) for r in rounds]))


def ratio_of_sums(above: NDArray[Any], below: NDArray[Any]) -> Estimate:
    """Return sum / sum over rounds, such as items / seconds, with an interval over rounds."""
    drawn = _draws(len(above))
    ratios = above[drawn].sum(1) / below[drawn].sum(1)
    return _estimate(above.sum() / below.sum(), ratios, len(above))


def paired_ratio(above: Sequence[float], below: Sequence[float]) -> Estimate:
    """Return how many times `below` fits into `above`, two numbers of the same round each.

    With fewer than six rounds no rank interval has 95 %: it is then all that was seen.
    """
    logs = np.log(np.asarray(above, float) / np.asarray(below, float))
    # Walsh averages of the logarithms: a ratio and its inverse then have inverse intervals.
    averages = np.sort([(x + y) / 2 for i, x in enumerate(logs) for y in logs[i:]])
    outside = max(0, _signed_rank_below(len(logs)) - 1)
    value, low, high = np.exp([np.median(averages), averages[outside], averages[-1 - outside]])
    return Estimate(value=float(value), low=float(low), high=float(high))


def verdict(times_better: Estimate) -> str:
    """Return "faster" or "slower" when the whole interval is beyond the practical threshold."""
    if times_better.low > 1 + PRACTICAL_THRESHOLD:
        return "faster"
    return "slower" if times_better.high < 1 / (1 + PRACTICAL_THRESHOLD) else "no difference"


def fraction(value: float, count: int) -> Estimate:
    """Return Wilson's interval around a fraction of `count` items."""
    square = NORMAL_975**2
    center = (value + square / (2 * count)) / (1 + square / count)
    root = math.sqrt(value * (1 - value) / count + square / (4 * count**2))
    half = NORMAL_975 * root / (1 + square / count)
    low, high = max(0.0, center - half), min(1.0, center + half)
    return Estimate(value=value, low=min(low, value), high=max(high, value))


def quartile_spread(samples: Floats) -> float:
    """Return (third quartile - first quartile) / median."""
    first, median, third = np.percentile(samples, (25, 50, 75))
    return float((third - first) / median)


def modified_z_scores(samples: Floats) -> Floats:
    """Return the distance of each sample from the median in robust standard deviations.

    Iglewicz, Hoaglin, How to Detect and Handle Outliers, 1993.
    """
    distances = samples - np.median(samples)
    deviation = 1.4826 * np.median(np.abs(distances))
    return distances / deviation if deviation > 0 else np.zeros_like(samples)


def _signed_rank_below(count: int) -> int:
    """Return how many values of the signed-rank statistic are in the tail, by its distribution."""
    # Of each sum of ranks 1..n, in how many ways it comes about; all 2**n are equally likely.
    ways = np.ones(1)
    for rank in range(1, count + 1):
        ways = np.pad(ways, (0, rank)) + np.pad(ways, (rank, 0))
    return int(np.searchsorted(np.cumsum(ways) / 2.0**count, TAIL, side="right"))


def _draws(rounds: int) -> NDArray[np.int64]:
    return np.random.default_rng(_SEED).integers(0, rounds, (RESAMPLES, rounds))


def _estimate(value: float, drawn: Floats, rounds: int) -> Estimate:
    tail = _bootstrap_tail(rounds)
    low, high = (float(bound) for bound in np.quantile(drawn, (tail, 1 - tail)))
    return Estimate(value=float(value), low=min(low, float(value)), high=max(high, float(value)))


def _bootstrap_tail(rounds: int) -> float:
    """Return the quantile that a percentile interval ends at, as wide as Student's t asks.

    Hesterberg, What Teachers Should Know About the Bootstrap, The American Statistician 69, 2015:
    the bootstrap's own interval is too narrow by sqrt(n / (n - 1)) and by z instead of t.
    """
    freedom, z = max(1, rounds - 1), NORMAL_975
    # Student's quantile from the normal one: Abramowitz, Stegun, 26.7.5.
    student = z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    return NormalDist().cdf(-student * math.sqrt((freedom + 1) / freedom))
