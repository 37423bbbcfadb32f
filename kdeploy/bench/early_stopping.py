"""A bound on a percentile from few samples, in the sense of MLPerf Inference's early stopping.

The k-th smallest of n independent samples is above the p-quantile with probability
P(Binomial(n, p) < k). The bound is the smallest order statistic for which that reaches 99 %: no
shape of the distribution is assumed, and where even the maximum may be too small there is none.
Sources: mlcommons/inference_policies, inference_rules.adoc, appendix "Early Stopping"; David,
Nagaraja, Order Statistics, 2003, section 7.1.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from kdeploy.flags import BOUND_CONFIDENCE


def discarded(count: int, quantile: float, *, confidence: float = BOUND_CONFIDENCE) -> int | None:
    """Return how many of the largest samples lie above the bound; None: there is no bound.

    It is the largest t with P(Binomial(count, 1 - quantile) <= t) <= 1 - confidence, so that many
    samples may be over a limit without a doubt that the quantile is within it.
    """
    below, found = 0.0, None
    for over in range(count):
        below += _probability(count, over, 1 - quantile)
        if below > 1 - confidence:
            break
        found = over
    return found


def smallest_count(quantile: float, *, confidence: float = BOUND_CONFIDENCE) -> int:
    """Return the fewest samples that have a bound, their maximum: 459 for a p99."""
    # All n within the quantile by chance: quantile**n <= 1 - confidence.
    return math.ceil(math.log(1 - confidence) / math.log(quantile))


def bound(
    samples: NDArray[np.float64], quantile: float, *, confidence: float = BOUND_CONFIDENCE
) -> float | None:
    """Return what the quantile is below, with `confidence`; None when the samples are too few."""
    over = discarded(len(samples), quantile, confidence=confidence)
    return None if over is None else float(np.sort(samples)[-1 - over])


def _probability(count: int, hits: int, chance: float) -> float:
    """Return P(Binomial(count, chance) = hits); by logarithms, which do not overflow."""
    ways = math.lgamma(count + 1) - math.lgamma(hits + 1) - math.lgamma(count - hits + 1)
    return math.exp(ways + hits * math.log(chance) + (count - hits) * math.log1p(-chance))
