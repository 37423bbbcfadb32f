"""Correlation of predictions: rank classes and items as the teacher ranks them.

Huang et al., NeurIPS 2022, arXiv:2205.10536; standardised logits: Sun et al., CVPR 2024,
arXiv:2403.01427.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kdeploy.distill.contract import loss
from kdeploy.distill.logits import probabilities, standardized

if TYPE_CHECKING:
    from pydantic import Field

ROUNDING = 1e-6  # of a mean in float32, relative


@loss(paper="arXiv:2205.10536", needs="logits")
def dist(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    *,
    beta: Annotated[float, Field(ge=0)] = 1.0,
    gamma: Annotated[float, Field(ge=0)] = 1.0,
    temperature: Annotated[float, Field(gt=0)] = 4.0,
    standardize: bool = False,
) -> Tensor:
    """Return beta * inter + gamma * intra, multiplied by temperature**2.

    Each is 1 - Pearson's correlation of probabilities: inter over the classes of an item, intra
    over the items of a batch in a class. A student too weak to match a strong teacher's values
    can still match their order. Weight 2 is usual. Unlike a divergence, a correlation does not
    shrink as the temperature grows: with the factor, 4 weighs about 16 times as much as 1.

    Args:
        student: Logits (batch, classes).
        teacher: Logits (batch, classes).
        labels: Not used: it needs none.
        beta: Weight of the correlation over classes.
        gamma: Weight of the correlation over the batch.
        temperature: Softens both distributions; > 0, no unit; the paper's is 4 for CIFAR-100,
            1 for ImageNet.
        standardize: Compare z-scores of the logits, so that the student need not match the
            teacher's scale.
    """
    del labels
    if standardize:
        student, teacher = standardized(student, teacher)
    learns = probabilities(student, temperature=temperature)
    # In float32: the means that are taken off would be rounding in half precision.
    knows = probabilities(teacher.detach(), temperature=temperature)
    value: Tensor = _Uncorrelated.apply(learns, knows, beta, gamma)  # type: ignore[no-untyped-call]
    return temperature**2 * value


class _Uncorrelated(torch.autograd.Function):
    """beta * (1 - correlation of rows) + gamma * (1 - correlation of columns), means of each.

    The gradient is worked out beside the value: autograd would keep every step of it, each as large
    as the rows, which counts where each pixel or token is a row.
    """

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, beta: float, gamma: float) -> Tensor:
        rows, columns = _Side.of(student, teacher, 1, beta), _Side.of(student, teacher, 0, gamma)
        if ctx.needs_input_grad[0]:
            # Of each side: by_teacher * (teacher - mean) + by_student * (student - mean).
            gradient = torch.mul(rows.by_teacher + columns.by_teacher, teacher)
            gradient.addcmul_(rows.by_student + columns.by_student, student)
            gradient -= rows.of_means
            gradient -= columns.of_means
            ctx.save_for_backward(gradient)
        return rows.value + columns.value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> Any:
        (gradient,) = ctx.saved_tensors
        return gradient * gradients[0], None, None, None


class _Side(NamedTuple):
    """The correlation along one axis, and what its gradient is made of."""

    value: Tensor
    by_teacher: Tensor
    by_student: Tensor
    of_means: Tensor

    @classmethod
    def of(cls, student: Tensor, teacher: Tensor, dim: int, weight: float) -> _Side:
        own, own_mean, own_length, varies = _varying(student, dim)
        other, other_mean, other_length, _ = _varying(teacher, dim)
        along = own.mul_(other).sum(dim=dim, keepdim=True) / (own_length * other_length)
        share = weight / along.numel()
        by_teacher = -share / (own_length * other_length)
        # Where a row is constant its length is none, and does not change with it.
        by_student = torch.where(varies, share * along / own_length.square(), 0.0)
        return cls(
            value=weight * (1 - along.mean()),
            by_teacher=by_teacher,
            by_student=by_student,
            of_means=by_teacher * other_mean + by_student * own_mean,
        )


def _varying(values: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return values without their mean along an axis, that mean, their length, and if they vary.

    Of what is constant only the rounding is left, and its length is called 1: as a length the
    rounding would be a ranking, and its gradient 1e7, of a head that starts at 0.
    """
    mean = values.mean(dim=dim, keepdim=True)
    centred = values - mean
    # Not `vector_norm`, which takes ten times as long across rows as along them.
    length, whole = (v.square().sum(dim, keepdim=True).sqrt() for v in (centred, values))
    varies = length > ROUNDING * whole
    return centred, mean, torch.where(varies, length, 1.0), varies
