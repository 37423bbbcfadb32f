"""Mean intersection over union: of each class over the whole set, then the mean over classes.

Everingham et al., International Journal of Computer Vision 111 (2015), section 2. It is not the
mean over images, which is another number.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.metrics.contract import check_maps, confusion, metric


@metric(name="segmentation.miou", unit="fraction", better="higher", tasks=("segmentation",))
def miou(predicted: NDArray[np.integer[Any]], expected: NDArray[np.integer[Any]]) -> float:
    """Return the mean over classes that occur of TP / (TP + FP + FN), both maps (N, H, W).

    Pixels of 255 in `expected` count nowhere.
    """
    check_maps(predicted, expected)
    counts = confusion(predicted, expected)
    union = counts.sum(axis=0) + counts.sum(axis=1) - np.diag(counts)
    return float((np.diag(counts)[union > 0] / union[union > 0]).mean())
