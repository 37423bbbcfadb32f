"""Agreement of keypoints: points that lie near enough to another model's."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.metrics.contract import check_points, metric

NEAR = 0.05
"""Of the longer side of the image."""


@metric(name="agreement.pck", unit="fraction", better="higher", tasks=("keypoint_heatmaps",))
def agreement_pck(
    predicted: NDArray[np.floating[Any]], expected: NDArray[np.floating[Any]]
) -> float:
    """Return the share of all points (N, points, 3) within 5 % of the longer side of the other."""
    check_points(predicted, expected)
    gap = np.linalg.norm(predicted[..., :2] - expected[..., :2], axis=-1)
    return float((gap <= NEAR).mean())
