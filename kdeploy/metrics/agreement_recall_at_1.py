"""Agreement of neighbours: items with the same nearest other item as by another model."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.metrics.contract import check_embeddings, metric, nearest


@metric(name="agreement.recall_at_1", unit="fraction", better="higher", tasks=("embedding",))
def agreement_recall_at_1(
    predicted: NDArray[np.floating[Any]], expected: NDArray[np.floating[Any]]
) -> float:
    """Return the share of items whose nearest other one is the same; widths may differ."""
    check_embeddings(predicted)
    check_embeddings(expected)
    return float((nearest(predicted) == nearest(expected)).mean())
