"""Correlation congruence: keep how the items of a batch correlate under a Gaussian kernel.

Peng et al., ICCV 2019, arXiv:1904.01802. RepDistiller's code has another formula under this name:
products of neighbours' differences after a trained projection.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

from torch import Tensor
from torch.nn import functional

from kdeploy.distill.contract import loss
from kdeploy.distill.embeddings import pooled, unit

if TYPE_CHECKING:
    from pydantic import Field


@loss(paper="arXiv:1904.01802", needs="features", of_items=True)
def correlation(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    *,
    gamma: Annotated[float, Field(gt=0)] = 0.4,
    order: Annotated[int, Field(ge=1)] = 2,
) -> Tensor:
    """Return the squared difference of the correlation matrices, over batch**2.

    The correlation of two items is exp(-gamma * |x - y|**2), its Taylor series in x.y, with x and
    y their embeddings of length 1. Maps are averaged over their positions; widths may differ.
    The values are small: 0.002 for random embeddings of 128 channels; weight 0.02 is usual.

    Args:
        student: Features (batch, channels, ...).
        teacher: Features (batch, other channels, ...).
        labels: Not used: it needs none.
        gamma: Narrows the kernel; > 0.
        order: Highest power of the series.
    """
    del labels
    own, other = (_correlations(features, gamma, order) for features in (student, teacher))
    return functional.mse_loss(own, other)


def _correlations(features: Tensor, gamma: float, order: int) -> Tensor:
    # |x - y|**2 = 2 - 2 x.y for vectors of length 1.
    vectors = unit(pooled(features))
    products = 2 * gamma * (vectors @ vectors.T)
    terms = [products**power / math.factorial(power) for power in range(order + 1)]
    return math.exp(-2 * gamma) * sum(terms[1:], start=terms[0])
