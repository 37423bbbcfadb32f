"""Mean average precision with another model's detections as truth; it needs no labels."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from kdeploy.metrics.average_precision import average_precision
from kdeploy.metrics.contract import metric


@metric(name="agreement.map", unit="fraction", better="higher", tasks=("detection",))
def agreement_map(predicted: NDArray[Any], expected: NDArray[Any]) -> float:
    """Return the mean over classes, from 0 to 1, of detections (N, n, 6) and boxes (N, m, 5)."""
    return average_precision(predicted, expected, which="map")
