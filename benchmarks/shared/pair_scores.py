"""What the panel of distillation pairs judges by, each the larger the better, and 1 is perfect."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

BATCH_SIZE = 500


@torch.inference_mode()
def score_of(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    task: str = "classification",
    unit: tuple[Tensor, Tensor] | None = None,
) -> float:
    """Return the score of a model on preprocessed items.

    Args:
        model: In eval mode.
        x: Items.
        y: Their targets.
        task: A key of `SCORES`.
        unit: Mean and standard deviation that its answers are counted in; None: as targets are.
    """
    answers = torch.cat([model(part) for part in x.split(BATCH_SIZE)])
    if unit is not None:
        answers = answers * unit[1] + unit[0]
    return SCORES[task](answers, y)


def share_right(logits: Tensor, labels: Tensor) -> float:
    """Return the fraction of items whose largest logit is their class."""
    return (logits.argmax(-1) == labels).double().mean().item()


def explained(values: Tensor, targets: Tensor) -> float:
    """Return R2, the mean over the columns: 0 is what the mean of the targets would get."""
    apart = (targets - values).double().square().sum(0)
    spread = (targets - targets.mean(0)).double().square().sum(0)
    return (1 - apart / spread).mean().item()


def mean_overlap(logits: Tensor, masks: Tensor) -> float:
    """Return intersection over union of each class that there is, their mean; (N, C, H, W)."""
    answers = logits.argmax(1)
    shares = []
    for number in masks.unique():
        own, true = answers == number, masks == number
        shares.append(((own & true).sum() / (own | true).sum()).double())
    return torch.stack(shares).mean().item()


SCORES: Mapping[str, Callable[[Tensor, Tensor], float]] = {
    "classification": share_right,
    "regression": explained,
    "segmentation": mean_overlap,
}
