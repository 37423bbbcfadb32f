"""Percentage of correct keypoints: visible points that are found near enough.

Yang and Ramanan, IEEE TPAMI 35 (2013).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.metrics.contract import check_points, metric, near_points


@metric(name="keypoints.pck", unit="fraction", better="higher", tasks=("keypoint_heatmaps",))
def pck(predicted: NDArray[np.floating[Any]], expected: NDArray[np.floating[Any]]) -> float:
    """Return the share of points with visibility above 0 that lie within `NEAR` of the truth.

    Args:
        predicted: Points (N, points, 3): x, y in parts of the image's longer side, and a score.
        expected: The same, with the visibility in the third place.
    """
    check_points(predicted, expected)
    is_seen = expected[..., 2] > 0
    return float(near_points(predicted, expected)[is_seen].mean())
