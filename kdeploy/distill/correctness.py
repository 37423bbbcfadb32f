"""Items that the teacher gets wrong teach less: what it says of them is weighed down.

The weight acts on the gradient, a row of the student's logits at a time, so that it means the same
for every loss on logits, whatever that does with a batch. Related: Wen et al. 2019,
arXiv:1911.07471, who correct what a teacher says where it is wrong.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kdeploy.data.contract import NOT_COUNTED

OF_WRONG = 0.0
"""The weight of an item that the teacher gets wrong."""


def weights_of(teacher: Tensor, labels: Tensor, *, of_wrong: float = OF_WRONG) -> Tensor | None:
    """Return a weight for each row of the teacher's logits, None where labels tell no class.

    Args:
        teacher: Logits (..., classes).
        labels: Class indices (...); items without one count in full. Of mixed items they are
            probabilities: then there is no right or wrong.
        of_wrong: The weight of a row whose largest logit is another class than the label.
    """
    if labels.is_floating_point() or labels.shape != teacher.shape[:-1]:
        return None
    of_label = teacher.gather(-1, labels.clamp(min=0)[..., None]).squeeze(-1)
    is_right = (of_label >= teacher.amax(dim=-1)) | (labels == NOT_COUNTED)
    return torch.where(is_right, 1.0, of_wrong)


def weighed(student: Tensor, weights: Tensor | None) -> Tensor:
    """Return the student's logits; a gradient that comes back is multiplied row by row."""
    if weights is None:
        return student
    result: Tensor = _Weighed.apply(student, weights)  # type: ignore[no-untyped-call]
    return result


class _Weighed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(weights)
        return logits.view_as(logits)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (weights,) = ctx.saved_tensors
        return gradients[0] * weights[..., None].to(gradients[0]), None
