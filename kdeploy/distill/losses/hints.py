"""Hints: regress a hidden layer of the teacher through a trained projection.

FitNets: Romero et al., ICLR 2015, arXiv:1412.6550. One stage: the hint is learned together with
the other losses.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from kdeploy.distill.contract import loss


@loss(paper="arXiv:1412.6550", needs="features", adapt=True)
def hints(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """Return the mean squared error of features of one shape.

    Sizes that differ were average-pooled to the smaller before, widths projected by a 1x1
    convolution and batch norm; others take a convolution as large as the ratio of the sizes.
    Weights from 10 to 100 are usual.

    Args:
        student: Adapted features (batch, channels, ...).
        teacher: Features of the same shape.
        labels: Not used: it needs none.
    """
    del labels
    return functional.mse_loss(student, teacher)
