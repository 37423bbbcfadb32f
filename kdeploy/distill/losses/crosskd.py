"""Cross-head distillation: what the teacher's own head makes of the student's features.

Wang et al., CVPR 2024, arXiv:2306.11369. The labels and the teacher pull one head into two
directions; here the teacher's pull reaches the student's features through the teacher's head, and
the student's own head is left to the labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import torch
from torch import Tensor, nn

from kdeploy.distill.contract import Batch, TaskFacts, loss
from kdeploy.distill.detections import check_detections, predictions_apart
from kdeploy.distill.feature_maps import check_maps, projection, resized
from kdeploy.errors import ModelError

if TYPE_CHECKING:
    from pydantic import Field

TINY = 1e-5


@loss(paper="arXiv:2306.11369", needs="all_features", tasks=("detection",))
class CrossKd(nn.Module):
    """Scores and boxes of the teacher run on from the student's features, as `detection_kd`.

    `layers` names layers of the heads, one for each stride; what lies behind them is the teacher's.
    A student's map of another width goes through a trained 1x1 convolution, and each channel gets
    the teacher's mean and deviation. The teacher runs twice more on each batch: with its own
    features, and with the student's. It has to be a torch model that is asked live.

    Args:
        student: Shapes of the student's maps (batch, channels, height, width).
        teacher: Shapes of the teacher's maps, in the same order.
        facts: For the number of classes, and to run the teacher on.
        boxes: Weight of the boxes, beside 1 for the scores.
        focus: How much less a score counts that is nearly right; 0: all alike.
    """

    def __init__(
        self,
        student: Sequence[Sequence[int]],
        teacher: Sequence[Sequence[int]],
        facts: TaskFacts,
        *,
        boxes: Annotated[float, Field(ge=0)] = 5.0,
        focus: Annotated[float, Field(ge=0)] = 1.0,
    ) -> None:
        super().__init__()
        if facts.run_on is None:
            raise ModelError(
                "`crosskd` runs the teacher on from the student's features, and nothing here can",
                hint="give the teacher as a torch model, or use `detection_kd` and `pkd`",
            )
        for own, other in zip(student, teacher, strict=True):
            check_maps(own, other, loss="crosskd")
        pairs = zip(student, teacher, strict=True)
        self.projections = nn.ModuleList(projection(own, other) for own, other in pairs)
        self.task, self.run_on, self.paths = facts.task, facts.run_on, facts.teacher_layers
        self.num_classes, self.boxes, self.focus = facts.num_classes, boxes, focus

    def forward(
        self, student: tuple[Tensor, ...], teacher: tuple[Tensor, ...], batch: Batch
    ) -> Tensor:
        """Return the sum of both, over the teacher's certainty."""
        triples = zip(self.projections, student, teacher, strict=True)
        crossed = [_like(resized(project(own), other.shape[2:]), other)
                   for project, own, other in triples]  # fmt: skip
        found = self._detections(batch, crossed)
        with torch.no_grad():
            wanted = self._detections(batch, teacher)
        check_detections(found.shape, wanted.shape, self.num_classes, loss="crosskd")
        return predictions_apart(
            found, wanted, self.num_classes, boxes=self.boxes, focus=self.focus
        )

    def _detections(self, batch: Batch, features: Sequence[Tensor]) -> Tensor:
        answer = self.run_on(batch, dict(zip(self.paths, features, strict=True)))
        return self.task.distillable(answer).float()


def _like(own: Tensor, other: Tensor) -> Tensor:
    """Return maps with the mean and deviation that the others have in each channel."""
    axes = (0, 2, 3)
    known = [
        (z.mean(axes, keepdim=True), (z.var(axes, keepdim=True, correction=0) + TINY).sqrt())
        for z in (own, other.detach())
    ]
    (mean, deviation), (wanted_mean, wanted_deviation) = known
    return (own - mean) / deviation * wanted_deviation + wanted_mean
