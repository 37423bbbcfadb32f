"""Response distillation: match the teacher's softened class probabilities.

Hinton, Vinyals, Dean 2015, arXiv:1503.02531; standardised logits: Sun et al., CVPR 2024,
arXiv:2403.01427.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from torch import Tensor

from kdeploy.distill.contract import loss
from kdeploy.distill.divergence import divergence
from kdeploy.distill.logits import standardized

if TYPE_CHECKING:
    from pydantic import Field


@loss(paper="arXiv:1503.02531", needs="logits")
def kd(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    *,
    temperature: Annotated[float, Field(gt=0)] = 4.0,
    standardize: bool = False,
) -> Tensor:
    """Return KL(teacher || student), multiplied by temperature**2 so that gradients keep size.

    Weight 0.9 beside a `label_weight` of 0.1 is usual; 0.5 of each, at temperature 1, for ImageNet.

    Args:
        student: Logits (batch, classes).
        teacher: Logits (batch, classes).
        labels: Not used: it needs none.
        temperature: Softens both distributions; > 0, no unit. With few classes or a small student
            1 to 2 can teach more than 4.
        standardize: Compare z-scores of the logits, so that the student need not match the
            teacher's scale; the paper uses temperature 2 and weight 9.
    """
    del labels
    if standardize:
        student, teacher = standardized(student, teacher)
    return temperature**2 * divergence(student, teacher, temperature=temperature)
