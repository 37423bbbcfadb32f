"""Agreement of keypoints: points that lie near enough to another model's."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.metrics.contract import check_points, metric, near_points


@metric(name="agreement.pck", unit="fraction", better="higher", tasks=("keypoint_heatmaps",))
def agreement_pck(
    predicted: NDArray[np.floating[Any]], expected: NDArray[np.floating[Any]]
) -> float:
    """Return the share of all points (N, points, 3) that lie within `NEAR` of the other's."""
    check_points(predicted, expected)
    return float(near_points(predicted, expected).mean())
