"""Next-token agreement: the fraction of tokens behind which the same one is the likeliest."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.metrics.contract import check_classes, metric


@metric(name="agreement.next_token", unit="fraction", better="higher", tasks=("language_modeling",))
def agreement_next_token(
    predicted: NDArray[np.integer[Any]], expected: NDArray[np.integer[Any]]
) -> float:
    """Return the fraction of tokens (N,) for which both predict the same next one."""
    check_classes(predicted, expected)
    return float(np.mean(predicted == expected))
