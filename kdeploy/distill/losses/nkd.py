"""Normalised distillation: the others' probabilities brought to one sum before they are compared.

Yang et al., ICCV 2023, arXiv:2303.13005; standardised logits: Sun et al., CVPR 2024,
arXiv:2403.01427.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from torch import Tensor

from kdeploy.distill.contract import loss
from kdeploy.distill.divergence import cross_entropy
from kdeploy.distill.logits import (
    check_targets,
    log_probabilities,
    others,
    probabilities,
    standardized,
)

if TYPE_CHECKING:
    from pydantic import Field


@loss(paper="arXiv:2303.13005", needs="logits", labels=True, exact=False)
def nkd(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    *,
    gamma: Annotated[float, Field(ge=0)] = 1.5,
    temperature: Annotated[float, Field(gt=0)] = 1.0,
    standardize: bool = False,
) -> Tensor:
    """Return -p log q of the target + gamma * temperature**2 * cross-entropy of the others.

    p is the teacher's probability of the target, q the student's: a cross-entropy with the label
    that counts more where the teacher is sure, so its minimum is not at equal logits. Needs 3
    classes or more.

    Args:
        student: Logits (batch, classes).
        teacher: Logits (batch, classes).
        labels: Class indices (batch,).
        gamma: Weight of the classes other than the target.
        temperature: Softens the others, not the target; > 0, no unit.
        standardize: Compare z-scores of the logits, so that the student need not match the
            teacher's scale.
    """
    check_targets(student, labels, loss="nkd")
    if standardize:
        student, teacher = standardized(student, teacher)
    # At temperature 1, as in the paper: softened, the teacher would seem less sure than it is.
    sure = _of(labels, probabilities(teacher.detach()))
    target = -(sure * _of(labels, log_probabilities(student))).mean()
    learns, knows = others(student, labels), others(teacher, labels)
    return target + gamma * temperature**2 * cross_entropy(learns, knows, temperature=temperature)


def _of(labels: Tensor, values: Tensor) -> Tensor:
    return values.gather(1, labels[:, None]).squeeze(1)
