"""Perplexity: among how many equally likely tokens the model chooses, on average.

Jelinek et al., Journal of the Acoustical Society of America 62 (1977), S63.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.errors import DataError
from kdeploy.metrics.contract import metric


@metric(name="perplexity", unit="", better="lower", needs="log_likelihoods")
def perplexity(log_likelihoods: NDArray[np.floating[Any]]) -> float:
    """Return exp of the mean cross-entropy of the tokens, (N,); 1 is certainty."""
    if log_likelihoods.ndim != 1 or not len(log_likelihoods):
        raise DataError(
            f"perplexity needs one number a token, found the shape {log_likelihoods.shape}",
            hint="the natural logarithm of the probability of each token that counts, (N,)",
        )
    if not np.isfinite(log_likelihoods).all():
        bad = np.flatnonzero(~np.isfinite(log_likelihoods))
        raise DataError(
            f"perplexity: {len(bad)} of {len(log_likelihoods)} log-likelihoods are NaN or infinite"
            f" (the first, counted from 0: {bad[0]})",
            hint="find out why the model answers no numbers there, or a chance of 0",
        )
    return float(np.exp(-np.mean(log_likelihoods, dtype=np.float64)))
