"""The teacher's likeliest classes one by one, and all others as one bucket.

The divergence of both distributions after the others were added up: at most the full one, and equal
to it with all classes. What a teacher's cache keeps of the largest logits (`cache_top_k`) is enough
for it, where the full divergence would learn an even tail. Anshumann et al., ACL 2025,
arXiv:2503.16870, on why the tail cannot be left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import torch
from torch import Tensor

from kdeploy.distill.contract import loss
from kdeploy.distill.divergence import log_divergence

if TYPE_CHECKING:
    from pydantic import Field


@loss(paper="arXiv:2503.16870", needs="logits")
def top_k_kd(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    *,
    k: Annotated[int, Field(ge=1)] = 64,
    temperature: Annotated[float, Field(gt=0)] = 1.0,
) -> Tensor:
    """Return the mean over rows, multiplied by temperature**2 so that gradients keep their size.

    Args:
        student: Logits (batch, classes).
        teacher: Logits (batch, classes).
        labels: Not used: it needs none.
        k: Classes that are compared one by one; all where there are not more. With kept answers at
            most their `cache_top_k`.
        temperature: Softens both distributions; > 0, no unit.
    """
    del labels
    own = (student.float() / temperature).log_softmax(-1)
    other = (teacher.detach().float() / temperature).log_softmax(-1)
    if k < own.shape[-1]:
        classes = other.topk(k, dim=-1).indices
        own, other = _coarse(own, classes), _coarse(other, classes)
    return temperature**2 * log_divergence(other, own)


def _coarse(logs: Tensor, classes: Tensor) -> Tensor:
    """Return log-probabilities (rows, k + 1): those of the classes, and of all others together."""
    # Summed rather than taken from 1, which has no digits left where the classes are nearly all.
    rest = logs.scatter(-1, classes, float("-inf")).logsumexp(-1, keepdim=True)
    return torch.cat([logs.gather(-1, classes), rest], dim=-1)
