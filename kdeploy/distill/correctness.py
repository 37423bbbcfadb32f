"""Items that the teacher gets wrong teach less: what it says of them is weighed down.

The weight acts on the gradient, a row of the student's logits at a time, so that it means the same
for every loss on logits, whatever that does with a batch. Related: Wen et al. 2019,
arXiv:1911.07471, who correct what a teacher says where it is wrong.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdeploy.data.contract import NOT_COUNTED

LEAST_LEAD, FULL_LEAD = 0.05, 0.1
"""How much oftener a teacher is right than its student, as fractions of the validation part, where
its errors begin to count (few items show no smaller lead), and where they count in full."""
MAPS = 4
"""Dimensions of the logits of maps."""
SINCE = 0.5
"""The part of a training after which a lead says something of the teacher."""


class WeightOfWrong(nn.Module):
    """The weight of items that the teacher gets wrong; what it is like is part of the checkpoint.

    A teacher that is well ahead of its student teaches by its errors too: it makes them where items
    are doubtful. One that the student has caught up with only spreads them.

    Args:
        fixed: The weight; None: by the lead on the validation part, after each epoch.
        teacher_accuracy: There, as a fraction.
    """

    def __init__(self, fixed: float | None = None, teacher_accuracy: float = 1.0) -> None:
        super().__init__()
        self.fixed = fixed
        self.teacher_accuracy = teacher_accuracy
        self.student_accuracy = 0.0

    def at(self, progress: float) -> float:
        """Return the weight at a time, from 0 to 1; before `SINCE` any teacher would be ahead."""
        if self.fixed is not None:
            return self.fixed
        if progress < SINCE:
            return 0.0
        lead = self.teacher_accuracy - self.student_accuracy
        return min(max((lead - LEAST_LEAD) / (FULL_LEAD - LEAST_LEAD), 0.0), 1.0)

    def validated(self, accuracy: float) -> None:
        """Take in the student's validation accuracy after an epoch."""
        self.student_accuracy = accuracy

    def get_extra_state(self) -> float:
        """Return what a checkpoint keeps."""
        return self.student_accuracy

    def set_extra_state(self, state: float) -> None:
        """Take what a checkpoint kept."""
        self.student_accuracy = state


def weights_of(teacher: Tensor, labels: Tensor, *, of_wrong: float) -> Tensor | None:
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
    # `>=` and not argmax: where two logits tie for the largest, the teacher is not wrong.
    is_right = (of_label >= teacher.amax(dim=-1)) | (labels == NOT_COUNTED)
    return torch.where(is_right, 1.0, of_wrong)


def weighed(student: Tensor, weights: Tensor | None) -> Tensor:
    """Return the student's logits; a gradient that comes back is multiplied row by row.

    Args:
        student: Logits (..., classes), or of maps (batch, classes, height, width).
        weights: Of each row (...), of maps of each pixel of the masks; None: all count in full.
    """
    if weights is None:
        return student
    if student.ndim == MAPS:  # a cell of a smaller map counts as far as its pixels do
        of_cells = functional.adaptive_avg_pool2d(
            weights[:, None], (student.shape[2], student.shape[3])
        )
        maps: Tensor = _Weighed.apply(student, of_cells)  # type: ignore[no-untyped-call]
        return maps
    rows: Tensor = _Weighed.apply(student, weights[..., None])  # type: ignore[no-untyped-call]
    return rows


class _Weighed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(weights)
        return logits.view_as(logits)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (weights,) = ctx.saved_tensors
        return gradients[0] * weights.to(gradients[0]), None
