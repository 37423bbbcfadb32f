"""Logits taken apart: their scale from their shape, the target class from the others."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from kdeploy.errors import ModelError

EPSILON = 1e-7  # of Sun et al.'s code: logits that are all equal stay finite
FEW_CLASSES = 16
"""Rows of fewer are no whole vector of a processor: PyTorch then computes them one number at a
time, which takes four to six times as long as class by class (torch 2.13, AVX-512)."""
MANY_ROWS = 256
"""Of fewer it makes no difference."""


def probabilities(logits: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Return the softmax of logits (rows, classes), in float32 or more digits."""
    return _over_classes(functional.softmax, logits, temperature)


def log_probabilities(logits: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Return the logarithms of the softmax of logits (rows, classes), as `probabilities`."""
    return _over_classes(functional.log_softmax, logits, temperature)


def _over_classes(function: Callable[..., Tensor], logits: Tensor, temperature: float) -> Tensor:
    precise = logits if logits.dtype == torch.float64 else logits.float()
    softened = precise if temperature == 1 else precise / temperature
    is_slow = softened.shape[-1] < FEW_CLASSES and len(softened) >= MANY_ROWS
    if softened.is_cpu and softened.ndim == 2 and is_slow:
        return function(softened.T.contiguous(), dim=0).T
    return function(softened, dim=-1)


def standardized(*logits: Tensor) -> tuple[Tensor, ...]:
    """Return each of the logits (batch, classes) as z-scores over the classes.

    A student that is compared so need not match the teacher's scale: Sun et al., CVPR 2024,
    arXiv:2403.01427. The deviation is the paper's, over all classes; its code's divides by one
    class less, as a temperature 0.5 % higher would for 100 classes.
    """
    return tuple(_standardized(z.float()) for z in logits)


def target_or_not(logits: Tensor, labels: Tensor) -> Tensor:
    """Return two logits (batch, 2) whose softmax is the target's probability and the rest's.

    The rest's is a sum in log space, never 1 - p: that is 0 where the target is nearly certain.
    """
    target = logits.gather(1, labels[:, None]).squeeze(1)
    return torch.stack([target, others(logits, labels).logsumexp(dim=1)], dim=1)


def others(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the logits (batch, classes - 1) of all classes but the target."""
    places = torch.arange(logits.shape[1] - 1, device=logits.device)
    # Places from the target on move by one: no mask, whose result's shape torch.compile could not
    # know.
    return logits.gather(1, places + (places >= labels[:, None]))


def check_targets(logits: Tensor, labels: Tensor, *, loss: str) -> None:
    """Raise ModelError unless labels are class indices and a target leaves others to compare.

    Of two classes only one is left without the target, and its share of the others is always 1.
    """
    if logits.shape[1] < 3:
        raise ModelError(
            f"`{loss}` compares the classes beside the target, found {logits.shape[1]} classes",
            hint="use `kd` for fewer than 3 classes",
        )
    if labels.ndim != 1 or labels.is_floating_point():
        raise ModelError(
            f"`{loss}` needs one class index an item, found labels of the shape "
            f"{tuple(labels.shape)} and type {labels.dtype}",
            hint="use `kd` or `dist` where inputs are mixed: they need no labels",
        )


def _standardized(logits: Tensor) -> Tensor:
    deviation = logits.std(dim=1, correction=0, keepdim=True)
    return (logits - logits.mean(dim=1, keepdim=True)) / (deviation + EPSILON)
