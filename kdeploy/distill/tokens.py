"""Sequences of tokens: which positions are real, means over them, heads, rows of logits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kdeploy.data.contract import NOT_COUNTED
from kdeploy.distill.contract import Batch
from kdeploy.errors import ModelError


def real_tokens(features: Tensor, batch: Batch, padding: int | None) -> Tensor:
    """Return which positions of features (..., width) hold a token, bool (...).

    Args:
        features: (batch, tokens, width); vectors (batch, width) only without padding.
        batch: Its `x` are the ids (batch, tokens) that the features were computed from.
        padding: The id that fills sequences up; None: every position is real.

    Raises:
        ModelError: the features have other positions than the batch has ids.
    """
    positions = features.shape[:-1]
    if padding is None:
        return torch.ones(positions, dtype=torch.bool, device=features.device)
    if batch.x.shape != positions:
        raise ModelError(
            f"`padding` needs a token id for each position: the ids have the shape "
            f"{tuple(batch.x.shape)}, the features {tuple(features.shape)}",
            hint="leave `padding` out, or name layers whose output is (batch, tokens, width)",
        )
    return batch.x != padding


def mean_over(values: Tensor, real: Tensor) -> Tensor:
    """Return the mean of the values where `real` holds, 0 where it holds nowhere."""
    # Not a product with the mask: NaN at padding times 0 is NaN.
    kept = torch.where(real, values, torch.zeros_like(values))
    return kept.sum() / real.sum().clamp(min=1)


def real_rows(logits: Tensor, labels: Tensor) -> Tensor:
    """Return logits (..., classes) as rows (rows, classes), of tokens those with a label.

    How many these are is read back from the device, once a step; items are rows already.

    Args:
        logits: (batch, classes) or (batch, tokens, vocabulary).
        labels: Of tokens their class indices (batch, tokens), or those of items.
    """
    if logits.ndim == 2 or labels.shape != logits.shape[:-1]:
        return logits.flatten(0, -2)
    counted = labels != NOT_COUNTED
    # As they lie where all count: picking rows copies them one by one.
    # A GPU would be waited for a second time to know.
    if counted.is_cpu and bool(counted.all()):
        return logits.flatten(0, -2)
    return logits[counted]


def split_heads(features: Tensor, heads: int) -> Tensor:
    """Return features (batch, tokens, width) as (batch, heads, tokens, width / heads)."""
    return features.reshape(*features.shape[:-1], heads, -1).transpose(1, 2)


def check_tokens(student: Sequence[int], teacher: Sequence[int], *, where: str) -> None:
    """Raise ModelError unless both shapes are (batch, tokens, width) with as many tokens."""
    if not len(student) == len(teacher) == 3 or student[1] != teacher[1]:
        raise ModelError(
            f"{where} compares features (batch, tokens, width) of one sequence, found "
            f"{tuple(student)} of the student and {tuple(teacher)} of the teacher",
            hint="name the linear projections inside attention, and feed both networks alike",
        )


def check_heads(width: int, heads: int, *, where: str, hint: str) -> None:
    """Raise ModelError unless the heads divide the width."""
    if width % heads:
        raise ModelError(f"{where}: {heads} heads do not divide the width {width}", hint=hint)
