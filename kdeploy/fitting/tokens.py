"""Labels of tokens: each token that counts becomes an item of its own, so that any loss is fit."""

from __future__ import annotations

from torch import Tensor

from kdeploy.data.contract import NOT_COUNTED


def counted(labels: Tensor, *outputs: Tensor) -> tuple[Tensor, ...]:
    """Return the labels (N,) and outputs (N, ...) of the tokens that count, of all items.

    Args:
        labels: Of tokens, (batch, tokens).
        outputs: One value or row for each, (batch, tokens, ...).
    """
    is_counted = labels != NOT_COUNTED
    return labels[is_counted], *(values[is_counted] for values in outputs)


def are_of_tokens(labels: Tensor) -> bool:
    """Return whether labels are of tokens, (batch, tokens); a mix has probabilities, floats."""
    return labels.ndim == 2 and not labels.is_floating_point()
