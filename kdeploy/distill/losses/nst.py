"""Neuron selectivity transfer: respond to the same positions as the teacher's channels do.

Huang and Wang 2017, arXiv:1707.01219. Other papers compare the items of a batch (`similarity`);
this one compares the channels of one item, as a sample of patterns over its positions.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from kdeploy.distill.contract import loss
from kdeploy.distill.feature_maps import pooled_alike
from kdeploy.errors import ModelError


@loss(paper="arXiv:1707.01219", needs="features", former_names=("similarity_of_maps",))
def nst(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """Return the squared maximum mean discrepancy of the two sets of channels.

    Each channel is a vector over positions, scaled to length 1; the kernel is the paper's best,
    (x y)**2. Neither the order of the channels nor their number matters; the larger feature map
    is average-pooled to the smaller. The paper's weight is 50.

    Args:
        student: Features (batch, channels, ...) with at least one spatial dimension.
        teacher: Features of the same number of dimensions.
        labels: Not used: it needs none.
    """
    del labels
    if student.ndim < 3:
        raise ModelError(
            f"nst needs features with positions, found the shape {tuple(student.shape)}",
            hint="name layers before the global pooling",
        )
    own, other = (_patterns(features) for features in pooled_alike(student, teacher))
    # The teacher's own term is constant, and lets the value be 0 where both agree.
    return _kernel(own, own) + _kernel(other, other) - 2 * _kernel(own, other)


def _patterns(features: Tensor) -> Tensor:
    """Return the channels (batch, channels, positions) as vectors of length 1."""
    return functional.normalize(features.flatten(2), dim=2)


def _kernel(first: Tensor, second: Tensor) -> Tensor:
    """Return the mean of the kernel over all pairs of channels and the batch."""
    return (first @ second.transpose(1, 2)).square().mean()
