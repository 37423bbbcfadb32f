"""Decoupled distillation: weigh the target class and the other classes apart.

Zhao et al., CVPR 2022, arXiv:2203.08679; standardised logits: Sun et al., CVPR 2024,
arXiv:2403.01427.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from torch import Tensor

from kdeploy.distill.contract import loss
from kdeploy.distill.divergence import divergence
from kdeploy.distill.logits import check_targets, others, standardized, target_or_not

if TYPE_CHECKING:
    from pydantic import Field


@loss(paper="arXiv:2203.08679", needs="logits", labels=True)
def dkd(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    *,
    alpha: Annotated[float, Field(ge=0)] = 1.0,
    beta: Annotated[float, Field(ge=0)] = 8.0,
    temperature: Annotated[float, Field(gt=0)] = 4.0,
    standardize: bool = False,
) -> Tensor:
    """Return alpha * TCKD + beta * NCKD, multiplied by temperature**2.

    TCKD is the divergence of (target, not target), NCKD that of the classes other than the target
    among themselves. KD is TCKD + (1 - p) * NCKD with the teacher's p of the target: where the
    teacher is sure, KD hides what it knows of the others. Needs 3 classes or more.

    Args:
        student: Logits (batch, classes).
        teacher: Logits (batch, classes).
        labels: Class indices (batch,).
        alpha: Weight of the target class.
        beta: Weight of the other classes; the paper tunes it for each pair, from 0.5 (ImageNet)
            to 8, and lets the whole loss grow for 20 epochs first (`weight: {warm_up: ...}`).
        temperature: Softens all distributions; > 0, no unit; 1 for ImageNet.
        standardize: Compare z-scores of the logits, so that the student need not match the
            teacher's scale.
    """
    check_targets(student, labels, loss="dkd")
    if standardize:
        student, teacher = standardized(student, teacher)
    student, teacher = student.float() / temperature, teacher.float() / temperature
    target = divergence(target_or_not(student, labels), target_or_not(teacher, labels))
    rest = divergence(others(student, labels), others(teacher, labels))
    return temperature**2 * (alpha * target + beta * rest)
