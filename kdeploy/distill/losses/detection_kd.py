"""Detections: score and place boxes as the teacher does, cell by cell, without labels.

As CrossKD compares predictions: Wang et al., CVPR 2024, arXiv:2306.11369. Classes are independent
of each other, so each is a yes or no, weighed by how wrong it is (quality focal loss, Li et al.,
arXiv:2006.04388); boxes count by the teacher's best score.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from torch import Tensor, nn

from kdeploy.distill.contract import Batch, TaskFacts, loss
from kdeploy.distill.detections import check_detections, predictions_apart

if TYPE_CHECKING:
    from pydantic import Field


@loss(paper="arXiv:2306.11369", needs="logits", tasks=("detection",))
class DetectionKd(nn.Module):
    """Quality focal loss of the scores and the generalised overlap of the boxes.

    Both are sums over all cells and classes, over the sum of the teacher's best score of each cell:
    as the loss with labels is over the sum of what was assigned.

    Args:
        student: Shape of the student's detections (batch, candidates, 4 + classes + ...).
        teacher: Shape of the teacher's, of as many candidates.
        facts: For the number of classes.
        boxes: Weight of the boxes, beside 1 for the scores.
        focus: How much less a score counts that is nearly right; 0: all alike.
    """

    def __init__(
        self,
        student: Sequence[int],
        teacher: Sequence[int],
        facts: TaskFacts,
        *,
        boxes: Annotated[float, Field(ge=0)] = 5.0,
        focus: Annotated[float, Field(ge=0)] = 1.0,
    ) -> None:
        super().__init__()
        check_detections(student, teacher, facts.num_classes, loss="detection_kd")
        self.num_classes, self.boxes, self.focus = facts.num_classes, boxes, focus

    def forward(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        """Return the sum of both, over the teacher's certainty."""
        del batch
        return predictions_apart(
            student, teacher, self.num_classes, boxes=self.boxes, focus=self.focus
        )
