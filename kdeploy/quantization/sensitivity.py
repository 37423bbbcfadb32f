"""Sensitivity: how much a model loses when one layer alone is INT8.

The layer's weight is rounded, and the tensors at its input and output as the profile places them;
all other numbers stay float. https://arxiv.org/abs/2106.08295, section 3.6, debugs so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from kdeploy.errors import ModelError
from kdeploy.quantization.fake_quant import FakeQuantized, layers_on_integers, round_alone
from kdeploy.tasks.contract import Task, classification
from kdeploy.torch_module.finite import as_arrays
from kdeploy.torch_module.named_inputs import call
from kdeploy.torch_module.named_outputs import OUTPUT, named_outputs

Outputs: TypeAlias = Mapping[str, Tensor]
"""Of a batch, by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivity:
    """What one layer on integers does to the model's outputs."""

    layer: str
    sqnr_decibels: float
    """Power of the float outputs over that of the error."""
    accuracy_drop: float
    """Fraction of the labels; negative where rounding helped."""


def sensitivities(
    model: FakeQuantized, batches: Sequence[tuple[Tensor, Tensor]], task: Task | None = None
) -> list[Sensitivity]:
    """Return all layers, the one that hurts most first: by accuracy, then by SQNR.

    Args:
        model: In evaluation mode; all its quantizers are on afterwards.
        batches: Preprocessed inputs and labels; negative labels do not count.
        task: Says how good an answer is, by its scores of items; None: classes.
    """
    found, task = [], task or classification()
    try:
        expected = _outputs(model, batches, ())
        accuracy = _accuracy(expected, batches, task)
        for layer in layers_on_integers(model):
            outputs = _outputs(model, batches, (layer,))
            found.append(
                Sensitivity(
                    layer=layer,
                    sqnr_decibels=_decibels(expected, outputs),
                    accuracy_drop=accuracy - _accuracy(outputs, batches, task),
                )
            )
    finally:
        round_alone(model, None)
    return sorted(found, key=lambda s: (-s.accuracy_drop, s.sqnr_decibels))


@torch.no_grad()
def _outputs(
    model: FakeQuantized, batches: Sequence[tuple[Tensor, Tensor]], layers: Sequence[str]
) -> list[Outputs]:
    round_alone(model, layers)
    return [named_outputs(call(model, x)) for x, _ in batches]


def _decibels(expected: Sequence[Outputs], outputs: Sequence[Outputs]) -> float:
    """Return the signal over the noise of the output that has least of it."""
    return min(
        _of_tensors([e[name] for e in expected], [o[name] for o in outputs]) for name in expected[0]
    )


def _of_tensors(expected: Sequence[Tensor], outputs: Sequence[Tensor]) -> float:
    signal = sum(float(e.double().square().sum()) for e in expected)
    noise = sum(
        float((o - e).double().square().sum()) for o, e in zip(outputs, expected, strict=True)
    )
    # No error at all is as good as float64 can tell.
    return 10 * math.log10(max(signal, 1e-300) / max(noise, signal * 1e-30, 1e-300))


def _accuracy(
    outputs: Sequence[Outputs], batches: Sequence[tuple[Tensor, Tensor]], task: Task
) -> float:
    """Return the mean score of the items; 0 of a task that has no scores of items."""
    if not hasattr(task, "item_scores"):
        return 0.0
    scores = []
    for answer, (x, y) in zip(outputs, batches, strict=True):
        one = answer[OUTPUT] if list(answer) == [OUTPUT] else answer
        targets = y.cpu().numpy()
        predictions = task.predictions(as_arrays(one), targets)
        reason = task.unreadable(predictions, what=f"items of a batch of {len(x)}")
        if reason is not None:
            raise ModelError(
                reason,
                hint="leave such items out of the calibration, or mend the layer that they break",
            )
        scores.append(task.item_scores(predictions, task.expected(targets)))
    return float(np.concatenate(scores).astype(np.float64).mean())
