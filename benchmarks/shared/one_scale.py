"""INT8 as it is done without a thought of detectors: one scale over all outputs together.

Converters that join boxes and scores into one tensor quantize it by the largest box, so that a
score, at most 1, is rounded to a multiple of a few pixels: to 0 (ultralytics/ultralytics#1683).
Beside it suites show what scales of their own are worth.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from kdeploy.torch_module.named_outputs import named_outputs


class OneScale(nn.Module):
    """A model whose outputs all pass one quantizer of 8 bits, from the lowest value to the largest.

    All else stays as it is, float or INT8.
    """

    def __init__(self, model: nn.Module, low: float, high: float) -> None:
        super().__init__()
        self.model = model
        self.scale = (max(high, 0.0) - min(low, 0.0)) / 255 or 1.0
        self.zero_point = round(-min(low, 0.0) / self.scale)

    @classmethod
    def calibrated(cls, model: nn.Module, batches: Iterable[Tensor]) -> OneScale:
        """Return the model with the range of all its outputs on these batches."""
        with torch.no_grad():
            outputs = [t for x in batches for t in named_outputs(model(x)).values()]
        low, high = min(t.min() for t in outputs), max(t.max() for t in outputs)
        return cls(model, float(low), float(high))

    def forward(self, x: Tensor) -> Any:
        """Return what the model returns, each tensor as its codes stand for it."""
        return tree_map_only(Tensor, self._rounded, self.model(x))

    def _rounded(self, tensor: Tensor) -> Tensor:
        codes = (tensor / self.scale).round() + self.zero_point
        return (codes.clamp(0, 255) - self.zero_point) * self.scale
