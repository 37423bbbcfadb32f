"""The cross-entropy with labels, of items or of their tokens."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def entropy(logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Return the mean over items, or over the tokens that count, in float32.

    Args:
        logits: Of items (batch, classes), or of tokens (batch, tokens, classes).
        labels: Class indices or, of items, probabilities; tokens of `NOT_COUNTED` are left out.
        label_smoothing: The share of each label that goes to all classes alike.
    """
    if logits.ndim == 3:
        logits, labels = logits.flatten(0, 1), labels.flatten()
    # -100, torch's own default of what to ignore, is `NOT_COUNTED`.
    return functional.cross_entropy(logits.float(), labels, label_smoothing=label_smoothing)
