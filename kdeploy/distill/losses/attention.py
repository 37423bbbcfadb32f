"""Attention transfer: look where the teacher looks.

Zagoruyko and Komodakis, ICLR 2017, arXiv:1612.03928.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from torch import Tensor
from torch.nn import functional

from kdeploy.distill.contract import loss
from kdeploy.distill.feature_maps import pooled_alike
from kdeploy.errors import ModelError

if TYPE_CHECKING:
    from pydantic import Field


@loss(paper="arXiv:1612.03928", needs="features")
def attention(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    *,
    power: Annotated[float, Field(gt=0)] = 2.0,
) -> Tensor:
    """Return the mean squared difference of the normalised attention maps.

    A map is the mean of |feature|**power over channels, its vector scaled to length 1; channels
    may differ in number, the larger feature map is average-pooled to the smaller. The values are
    small: weights near 1000 are usual.

    Args:
        student: Features (batch, channels, ...) with at least one spatial dimension.
        teacher: Features of the same number of dimensions.
        labels: Not used: it needs none.
        power: Larger looks more at the strongest activations; the paper's is 2.
    """
    del labels
    if student.ndim < 3:
        raise ModelError(
            f"attention needs features with positions, found the shape {tuple(student.shape)}",
            hint="name layers before the global pooling",
        )
    student, teacher = pooled_alike(student, teacher)
    return functional.mse_loss(_attention(student, power), _attention(teacher, power))


def _attention(features: Tensor, power: float) -> Tensor:
    """Return the map (batch, positions) of length 1."""
    return functional.normalize(features.abs().pow(power).mean(1).flatten(1), dim=1)
