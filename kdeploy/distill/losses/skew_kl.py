"""Skewed divergence: against a mixture with the other side, so that gradients stay finite.

DistiLLM: Ko et al., ICML 2024, arXiv:2402.03898, equations 4 and 5.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from torch import Tensor

from kdeploy.distill.contract import loss
from kdeploy.distill.divergence import skewed

if TYPE_CHECKING:
    from pydantic import Field


@loss(paper="arXiv:2402.03898", needs="logits")
def skew_kl(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    *,
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.1,
    reverse: bool = False,
    temperature: Annotated[float, Field(gt=0)] = 1.0,
) -> Tensor:
    """Return the mean over rows, multiplied by temperature**2 so that gradients keep their size.

    Forward it is KL(teacher || alpha teacher + (1 - alpha) student), reverse it is
    KL(student || (1 - alpha) teacher + alpha student); at most -ln alpha. At alpha 0 it is the
    plain divergence, at 1 it is 0.

    Args:
        student: Logits (batch, classes).
        teacher: Logits (batch, classes).
        labels: Not used: it needs none.
        alpha: How much of what is compared is mixed into what it is compared with.
        reverse: Settle on what is likeliest, rather than cover all that the teacher finds likely.
        temperature: Softens both distributions; > 0, no unit.
    """
    del labels
    own, other = student.float() / temperature, teacher.detach().float() / temperature
    return temperature**2 * skewed(own, other, alpha=alpha, reverse=reverse)
