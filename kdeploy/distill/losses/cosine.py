"""Embeddings by direction: point where the teacher's vector points.

As sentence encoders are distilled: Reimers and Gurevych, EMNLP 2020, arXiv:2004.09813, with the
angle in place of the distance.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from kdeploy.distill.contract import Batch, TaskFacts, loss
from kdeploy.distill.embeddings import unit
from kdeploy.distill.feature_maps import projection


@loss(paper="arXiv:2004.09813", needs="logits", tasks=("embedding",))
class Cosine(nn.Module):
    """One less the cosine of the two vectors, the mean over items; lengths do not matter.

    A student of another width is projected in training only: its own vectors are then not
    comparable with the teacher's, only with each other.

    Args:
        student: Shape of the student's outputs (batch, width).
        teacher: Shape of the teacher's outputs (batch, width).
        facts: Not used.
    """

    def __init__(self, student: Sequence[int], teacher: Sequence[int], facts: TaskFacts) -> None:
        super().__init__()
        del facts
        self.projection = projection(student, teacher)

    def forward(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        """Return the mean over the batch."""
        del batch
        own, other = unit(self.projection(student)), unit(teacher.detach())
        return 1 - (own * other).sum(dim=-1).mean()
