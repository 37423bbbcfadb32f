"""Localisation distillation: match the teacher's distributions of where a box's edges lie.

Zheng et al., CVPR 2022, arXiv:2102.12252.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from torch import Tensor, nn
from torch.nn import functional

from kdeploy.distill.contract import Batch, TaskFacts, loss
from kdeploy.distill.detections import EDGES, check_detections, split_detections
from kdeploy.errors import ModelError

if TYPE_CHECKING:
    from pydantic import Field


@loss(paper="arXiv:2102.12252", needs="logits", tasks=("detection",))
class Ld(nn.Module):
    """Divergence of the bins of each edge, the mean over edges, weighed by cell.

    Summed over bins, times temperature**2: codes that take the mean over the bins as well have a
    value smaller by their number. A cell weighs the teacher's best score, which says where the
    objects are without labels; the paper takes an assigner's cells and those around. Weight 0.25 is
    usual.

    Args:
        student: Shape of the student's detections (batch, candidates, 4 + classes + 4 * bins).
        teacher: Shape of the teacher's, of as many candidates and bins.
        facts: For the number of classes.
        temperature: Softens both distributions; > 0, no unit.
    """

    def __init__(
        self,
        student: Sequence[int],
        teacher: Sequence[int],
        facts: TaskFacts,
        *,
        temperature: Annotated[float, Field(gt=0)] = 10.0,
    ) -> None:
        super().__init__()
        check_detections(student, teacher, facts.num_classes, loss="ld")
        bins = student[2] - EDGES - facts.num_classes
        if tuple(student[1:]) != tuple(teacher[1:]) or not bins or bins % EDGES:
            raise ModelError(
                f"`ld` compares distributions of edges, found {bins} numbers of the student and "
                f"{teacher[2] - EDGES - facts.num_classes} of the teacher for the bins of a cell",
                hint="it is for heads whose `boxes` are (N, 4 * bins, H, W) on both sides; one "
                "distance an edge is learned by `detection_kd`",
            )
        self.num_classes, self.temperature = facts.num_classes, temperature

    def forward(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        """Return the weighted mean over the cells' edges."""
        del batch
        sides = [split_detections(z, self.num_classes) for z in (student, teacher.detach())]
        own, other = (functional.log_softmax(s.bins / self.temperature, dim=-1) for s in sides)
        edges = (other.exp() * (other - own)).sum(-1).mean(-1)  # (batch, candidates)
        weight = sides[1].logits.sigmoid().amax(-1)
        return self.temperature**2 * (edges * weight).sum() / weight.sum().clamp(min=1)
