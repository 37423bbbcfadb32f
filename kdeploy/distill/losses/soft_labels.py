"""Soft labels: the teacher's probabilities in the place of labels, for data that has none.

Hinton, Vinyals, Dean 2015, arXiv:1503.02531; standardised logits: Sun et al., CVPR 2024,
arXiv:2403.01427.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from torch import Tensor

from kdeploy.distill.contract import loss
from kdeploy.distill.divergence import cross_entropy
from kdeploy.distill.logits import standardized

if TYPE_CHECKING:
    from pydantic import Field


@loss(paper="arXiv:1503.02531", needs="logits")
def soft_labels(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    *,
    temperature: Annotated[float, Field(gt=0)] = 1.0,
    standardize: bool = False,
) -> Tensor:
    """Return the cross-entropy with the teacher's probabilities, multiplied by temperature**2.

    The gradient is that of `kd`, and so is the place of the minimum: equal probabilities. The
    value there is not 0 but the teacher's entropy: at temperature 1 it reads as a cross-entropy
    with labels does, in nat.

    Args:
        student: Logits (batch, classes).
        teacher: Logits (batch, classes).
        labels: Not used: the teacher labels.
        temperature: Softens both distributions; > 0, no unit.
        standardize: Compare z-scores of the logits, so that the student need not match the
            teacher's scale.
    """
    del labels
    if standardize:
        student, teacher = standardized(student, teacher)
    return temperature**2 * cross_entropy(student, teacher, temperature=temperature)
