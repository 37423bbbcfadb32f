"""Next-token divergence: by how many nats a model's distributions differ from the teacher's.

Kullback and Leibler, Annals of Mathematical Statistics 22 (1951), 79: the forward direction, the
sum of p ln(p / q) with the teacher's p, as llama.cpp's `perplexity --kl-divergence` has it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.errors import DataError
from kdeploy.metrics.contract import metric


@metric(
    name="divergence.next_token",
    unit="nat",
    better="lower",
    needs="divergences",
    tasks=("language_modeling",),
)
def divergence_next_token(divergences: NDArray[np.floating[Any]]) -> float:
    """Return the mean of the KL divergences of the tokens, (N,) in nats; 0 is the teacher's own."""
    if divergences.ndim != 1 or not len(divergences) or not np.isfinite(divergences).all():
        raise DataError(
            f"divergence.next_token needs one finite number a token, found the shape "
            f"{divergences.shape} with {int(np.isfinite(divergences).sum())} of them finite",
            hint="the KL divergence of each token that counts, (N,); infinite is a token that the "
            "teacher may say and the model cannot",
        )
    return float(np.mean(divergences, dtype=np.float64))
