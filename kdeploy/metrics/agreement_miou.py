"""Agreement of masks: the mean intersection over union with another model's masks."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.metrics.contract import check_maps, confusion, metric


@metric(name="agreement.miou", unit="fraction", better="higher", tasks=("segmentation",))
def agreement_miou(
    predicted: NDArray[np.integer[Any]], expected: NDArray[np.integer[Any]]
) -> float:
    """Return the mean over classes that occur of TP / (TP + FP + FN), both maps (N, H, W)."""
    check_maps(predicted, expected)
    counts = confusion(predicted, expected)
    union = counts.sum(axis=0) + counts.sum(axis=1) - np.diag(counts)
    return float((np.diag(counts)[union > 0] / union[union > 0]).mean())
