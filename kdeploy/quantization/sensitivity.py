"""Sensitivity: how much a model loses when one layer alone is INT8.

The layer's weight is rounded, and the tensors at its input and output as the profile places them;
all other numbers stay float. https://arxiv.org/abs/2106.08295, section 3.6, debugs so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kdeploy.errors import ModelError
from kdeploy.quantization.fake_quant import FakeQuantized
from kdeploy.torch_module.finite import has_class
from kdeploy.torch_module.named_inputs import call


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivity:
    """What one layer on integers does to the model's outputs."""

    layer: str
    sqnr_decibels: float
    """Power of the float outputs over that of the error."""
    accuracy_drop: float
    """Fraction of the labels; negative where rounding helped."""


def sensitivities(
    model: FakeQuantized, batches: Sequence[tuple[Tensor, Tensor]]
) -> list[Sensitivity]:
    """Return all layers, the one that hurts most first: by accuracy, then by SQNR.

    Args:
        model: In evaluation mode; all its quantizers are on afterwards.
        batches: Preprocessed inputs and labels; negative labels do not count.
    """
    found = []
    try:
        expected = _outputs(model, batches, ())
        for layer in model.layers:
            outputs = _outputs(model, batches, (layer,))
            found.append(
                Sensitivity(
                    layer=layer,
                    sqnr_decibels=_decibels(expected, outputs),
                    accuracy_drop=_accuracy(expected, batches) - _accuracy(outputs, batches),
                )
            )
    finally:
        model.switch(None)
    return sorted(found, key=lambda s: (-s.accuracy_drop, s.sqnr_decibels))


@torch.no_grad()
def _outputs(
    model: FakeQuantized, batches: Sequence[tuple[Tensor, Tensor]], layers: Sequence[str]
) -> list[Tensor]:
    model.switch(layers)
    return [call(model, x) for x, _ in batches]


def _decibels(expected: Sequence[Tensor], outputs: Sequence[Tensor]) -> float:
    signal = sum(float(e.double().square().sum()) for e in expected)
    noise = sum(
        float((o - e).double().square().sum()) for o, e in zip(outputs, expected, strict=True)
    )
    # No error at all is as good as float64 can tell.
    return 10 * math.log10(max(signal, 1e-300) / max(noise, signal * 1e-30, 1e-300))


def _accuracy(outputs: Sequence[Tensor], batches: Sequence[tuple[Tensor, Tensor]]) -> float:
    for o, (x, _) in zip(outputs, batches, strict=True):
        if not bool(has_class(o).all()):
            row = int(torch.nonzero(~has_class(o).reshape(len(o), -1).all(1))[0])
            raise ModelError(
                f"the model answers NaN or infinity to item {row} of a batch of {len(x)}, which is "
                "no class",
                hint="leave such items out of the calibration, or mend the layer that they break",
            )
    pairs = zip(outputs, batches, strict=True)
    right = torch.cat([(o.argmax(-1) == y)[y >= 0] for o, (_, y) in pairs])  # negative: not counted
    return float(right.double().mean())
