"""Correlation of predictions: rank classes and items as the teacher ranks them.

Huang et al., NeurIPS 2022, arXiv:2205.10536; standardised logits: Sun et al., CVPR 2024,
arXiv:2403.01427.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import torch
from torch import Tensor
from torch.nn import functional

from kdeploy.distill.contract import loss
from kdeploy.distill.logits import standardized

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
    learns = functional.softmax(student.float() / temperature, dim=1)
    # In float32: the mean that `_varying` takes off would be rounding in half precision.
    knows = functional.softmax(teacher.detach().float() / temperature, dim=1)
    inter, intra = _distance(learns, knows), _distance(learns.T, knows.T)
    return temperature**2 * (beta * inter + gamma * intra)


def _distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Return 1 - Pearson's correlation of the rows, their mean."""
    return 1 - (_varying(student) * _varying(teacher)).sum(dim=1).mean()


def _varying(rows: Tensor) -> Tensor:
    """Return the rows without their mean at length 1; of a constant row only the rounding is left.

    At length 1 the rounding would be a ranking, and its gradient 1e7: a head that starts at 0.
    """
    centred = rows - rows.mean(dim=1, keepdim=True)
    length, whole = (torch.linalg.vector_norm(r, dim=1, keepdim=True) for r in (centred, rows))
    return centred / torch.where(length > ROUNDING * whole, length, 1.0)
