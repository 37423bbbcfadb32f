"""Rank correlation of similarities: pairs that shall be alike are the more alike ones."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.metrics.contract import check_embeddings, metric, some_pairs


@metric(name="embedding.spearman", unit="", better="higher", tasks=("embedding",))
def embedding_spearman(
    predicted: NDArray[np.floating[Any]], expected: NDArray[np.integer[Any]]
) -> float:
    """Return Spearman's correlation of pairs' cosines with whether they are of one group.

    Args:
        predicted: Unit vectors (N, width).
        expected: The group of each item, (N,).
    """
    from scipy.stats import spearmanr

    check_embeddings(predicted)
    one, other = some_pairs(len(predicted))
    alike = expected[one] == expected[other]
    if alike.all() or not alike.any():
        return float("nan")
    cosines = np.einsum("nd,nd->n", predicted[one], predicted[other])
    return float(spearmanr(cosines, alike).statistic)
