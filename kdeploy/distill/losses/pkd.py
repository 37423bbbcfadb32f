"""Features by correlation: match the pattern of each channel, whatever its mean and scale.

PKD: Cao et al., NeurIPS 2022, arXiv:2207.02039. It works between detectors with other heads, and
needs neither labels nor an assigner.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kdeploy.distill.contract import Batch, TaskFacts, loss
from kdeploy.distill.embeddings import nonzero
from kdeploy.distill.feature_maps import check_ranks, projection, resized


@loss(paper="arXiv:2207.02039", needs="features")
class Pkd(nn.Module):
    """One less Pearson's correlation of each channel, over the items and positions of a batch.

    Half the mean squared error of channels at mean 0 and deviation 1. A student's map of another
    width goes through a trained 1x1 convolution, one of another size is interpolated. Weight 6 is
    usual.

    Args:
        student: Shape of the student's maps (batch, channels, ...).
        teacher: Shape of the teacher's maps.
        facts: Not used.
    """

    def __init__(self, student: Sequence[int], teacher: Sequence[int], facts: TaskFacts) -> None:
        super().__init__()
        del facts
        check_ranks(student, teacher, where="loss `pkd`")
        self.projection = projection(student, teacher)

    def forward(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        """Return the mean over channels."""
        del batch
        own = self.projection(student)
        if own.ndim > 2:
            own = resized(own, teacher.shape[2:])
        return (_standardized(own) - _standardized(teacher)).square().mean() / 2


def _standardized(features: Tensor) -> Tensor:
    rows = features.transpose(0, 1).flatten(1)  # (channels, items and positions)
    centred = rows - rows.mean(dim=1, keepdim=True)
    # A norm, not `std`: at a channel of one value its gradient is 0, and so is the channel.
    deviation = torch.linalg.vector_norm(centred, dim=1, keepdim=True) / rows.shape[1] ** 0.5
    return centred / nonzero(deviation)
