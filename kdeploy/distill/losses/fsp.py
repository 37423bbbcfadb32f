"""Flow of solution procedure: match how features of one layer turn into those of the next.

Yim et al., CVPR 2017,
https://openaccess.thecvf.com/content_cvpr_2017/html/Yim_A_Gift_From_CVPR_2017_paper.html.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

from kdeploy.distill.contract import loss
from kdeploy.distill.feature_maps import POOLS, pooled_alike
from kdeploy.errors import ModelError


@loss(
    paper="https://openaccess.thecvf.com/content_cvpr_2017/html/Yim_A_Gift_From_CVPR_2017_paper.html",
    needs="all_features",
)
def fsp(student: tuple[Tensor, ...], teacher: tuple[Tensor, ...], labels: Tensor) -> Tensor:
    """Return the mean squared difference of the Gram matrices, summed over neighbouring layers.

    The matrix of two maps of one network is their product over positions, divided by the number
    of positions; of two sizes the larger is average-pooled to the smaller. The paper trains it
    alone first; here it is learned together with the other losses. Weight 50 is usual.

    Args:
        student: Maps (batch, channels, ...) in the order of the network, at least two.
        teacher: As many maps, each as wide as the student's.
        labels: Not used: it needs none.
    """
    del labels
    _check(student, teacher)
    differences = [
        functional.mse_loss(_flow(*own), _flow(*other))
        for own, other in zip(pairwise(student), pairwise(teacher), strict=True)
    ]
    return torch.stack(differences).sum()


def _flow(first: Tensor, second: Tensor) -> Tensor:
    """Return the matrices (batch, channels of the first, channels of the second)."""
    first, second = (maps.flatten(2) for maps in pooled_alike(first, second))
    return first @ second.transpose(1, 2) / first.shape[2]


def _check(student: tuple[Tensor, ...], teacher: tuple[Tensor, ...]) -> None:
    if len(student) < 2:
        raise ModelError(
            f"fsp compares neighbouring layers, found {len(student)}",
            hint="name two or more pairs in `layers`, from shallow to deep",
        )
    for own, other in zip(student, teacher, strict=True):
        if not own.ndim == other.ndim == student[0].ndim or own.ndim not in POOLS:
            raise ModelError(
                f"fsp needs signals or images from all layers, found the shapes "
                f"{tuple(own.shape)} and {tuple(other.shape)}",
                hint="name layers before the global pooling",
            )
        if own.shape[1] != other.shape[1]:
            raise ModelError(
                f"fsp needs layers of equal width: the student's has {own.shape[1]} channels, "
                f"the teacher's {other.shape[1]}",
                hint="name layers of equal width, or use `review` or `nst`, which "
                "compare any widths",
            )
