"""Segmentation by models that answer with the probability of one class, not with a logit."""

from __future__ import annotations

from typing import Any

import numpy as np

from kdeploy.tasks.contract import one_output
from kdeploy.tasks.segmentation import Segmentation


class Probabilities(Segmentation):
    """Pixels are text where the probability is at least `threshold`, as in RapidOCR."""

    def __init__(self, *, threshold: float = 0.3) -> None:
        super().__init__()
        self.threshold = threshold

    def predictions(self, answer: Any, targets: Any) -> Any:
        # The base reads the class from the sign, as of a logit.
        return super().predictions(np.asarray(one_output(answer)) - self.threshold, targets)
