"""Outputs by value: the mean squared error of the student's and the teacher's vectors.

Ba and Caruana, NeurIPS 2014, arXiv:1312.6184 (logits); Reimers and Gurevych, EMNLP 2020,
arXiv:2004.09813 (embeddings).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from kdeploy.distill.contract import Batch, TaskFacts, loss
from kdeploy.distill.embeddings import unit
from kdeploy.distill.feature_maps import projection


@loss(
    paper="arXiv:1312.6184",
    needs="logits",
    tasks=("classification", "regression", "embedding", "multi_label", "keypoint_heatmaps"),
)
class Mse(nn.Module):
    """Mean squared error of outputs of any shape, through a trained projection of another width.

    Args:
        student: Shape of the student's outputs (batch, width, ...).
        teacher: Shape of the teacher's outputs.
        facts: Not used.
        normalize: Compare vectors of length 1: twice one less their cosine, over the width.
    """

    def __init__(
        self,
        student: Sequence[int],
        teacher: Sequence[int],
        facts: TaskFacts,
        *,
        normalize: bool = False,
    ) -> None:
        super().__init__()
        del facts
        self.normalize = normalize
        self.projection = projection(student, teacher)

    def forward(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        """Return the mean over the batch and all values."""
        del batch
        own, other = self.projection(student), teacher.detach()
        if self.normalize:
            own, other = unit(own), unit(other)
        return functional.mse_loss(own, other)
