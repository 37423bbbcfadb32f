"""Agreement of similarities: rank correlation of pairs' cosines with another model's."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.metrics.contract import check_embeddings, metric, some_pairs


@metric(name="agreement.spearman", unit="", better="higher", tasks=("embedding",))
def agreement_spearman(
    predicted: NDArray[np.floating[Any]], expected: NDArray[np.floating[Any]]
) -> float:
    """Return Spearman's correlation of the cosines of pairs, (N, width) each; widths may differ."""
    from scipy.stats import spearmanr

    check_embeddings(predicted)
    check_embeddings(expected)
    one, other = some_pairs(len(predicted))
    sides = (np.einsum("nd,nd->n", side[one], side[other]) for side in (predicted, expected))
    return float(spearmanr(*sides).statistic)
