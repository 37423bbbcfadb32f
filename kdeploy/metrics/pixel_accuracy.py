"""Pixel accuracy: the share of pixels that get their class."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.metrics.contract import check_maps, confusion, metric


@metric(
    name="segmentation.pixel_accuracy", unit="fraction", better="higher", tasks=("segmentation",)
)
def pixel_accuracy(
    predicted: NDArray[np.integer[Any]], expected: NDArray[np.integer[Any]]
) -> float:
    """Return the share of pixels whose class is right, both maps (N, H, W); 255 counts nowhere."""
    check_maps(predicted, expected)
    counts = confusion(predicted, expected)
    return float(np.diag(counts).sum() / counts.sum())
