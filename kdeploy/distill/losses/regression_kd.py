"""Teacher-bounded regression: learn from the labels, as long as the teacher does better.

Chen et al., NeurIPS 2017,
https://papers.nips.cc/paper/2017/hash/e1e32e235eee1f970470a3a6658dfdd5-Abstract.html.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import torch
from torch import Tensor

from kdeploy.distill.contract import loss
from kdeploy.errors import ModelError

if TYPE_CHECKING:
    from pydantic import Field


@loss(
    paper="https://papers.nips.cc/paper/2017/hash/e1e32e235eee1f970470a3a6658dfdd5-Abstract.html",
    needs="logits",
    labels=True,
    exact=False,
    tasks=("regression",),
)
def regression_kd(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    *,
    margin: Annotated[float, Field(ge=0)] = 0.0,
) -> Tensor:
    """Return the squared error of items where the student is not yet better than the teacher.

    |student - label|**2 where that plus `margin` exceeds |teacher - label|**2, else 0; summed over
    an item's values, the mean over the batch. It is added to the labels' loss, with weight 0.5. The
    teacher's own mistakes are never learned.

    Args:
        student: Values (batch, width).
        teacher: Values (batch, width).
        labels: True values (batch, width).
        margin: By which squared error the student has to be better; in squared units of targets.
    """
    if labels.shape != student.shape:
        raise ModelError(
            f"`regression_kd` needs one true value for each output, found labels "
            f"{tuple(labels.shape)} for outputs {tuple(student.shape)}",
            hint="it is for `task: regression`; use `mse`, which needs no labels",
        )
    own, other = ((z.flatten(1) - labels.flatten(1)).square().sum(1) for z in (student, teacher))
    return torch.where(own + margin > other.detach(), own, torch.zeros_like(own)).mean()
