"""Similarity-preserving distillation: items that look alike to the teacher look alike.

Tung and Mori, ICCV 2019, arXiv:1907.09682.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from kdeploy.distill.contract import loss
from kdeploy.distill.embeddings import unit


@loss(paper="arXiv:1907.09682", needs="features", of_items=True)
def similarity(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """Return the squared difference of the similarity matrices, over batch**2.

    The similarity of two items is the product of their flattened maps; each item's row has length
    1. Sizes and widths may differ. The values are small: weights near 3000 are usual.

    Args:
        student: Features (batch, channels, ...).
        teacher: Features (batch, ...) of any shape.
        labels: Not used: it needs none.
    """
    del labels
    return functional.mse_loss(_similarities(student), _similarities(teacher))


def _similarities(features: Tensor) -> Tensor:
    vectors = features.flatten(1)
    return unit(vectors @ vectors.T)
