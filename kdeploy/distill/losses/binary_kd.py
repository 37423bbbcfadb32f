"""Binary distillation: match the teacher's probability of each label by itself.

Yang et al., ICCV 2023, arXiv:2308.06453, section 3.1: labels are independent, so a softmax over
them would compare what nobody asked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from torch import Tensor
from torch.nn import functional

from kdeploy.distill.contract import loss

if TYPE_CHECKING:
    from pydantic import Field


@loss(paper="arXiv:2308.06453", needs="logits", tasks=("multi_label",))
def binary_kd(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    *,
    temperature: Annotated[float, Field(gt=0)] = 2.0,
) -> Tensor:
    """Return temperature**2 * KL(Bernoulli teacher || Bernoulli student), the mean over all.

    Args:
        student: Logits (batch, labels).
        teacher: Logits (batch, labels).
        labels: Not used: it needs none.
        temperature: Softens both probabilities; > 0, no unit.
    """
    del labels
    own, other = student / temperature, teacher.detach() / temperature
    known = other.sigmoid()
    cross = functional.binary_cross_entropy_with_logits(own, known, reduction="none")
    # The teacher's own entropy: without it the minimum would not be 0. No parameter is in it.
    least = functional.binary_cross_entropy_with_logits(other, known, reduction="none")
    return temperature**2 * (cross - least).mean()
