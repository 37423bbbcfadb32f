"""Localisation distillation: match the teacher's distributions of where a box's edges lie.

Zheng et al., CVPR 2022, arXiv:2102.12252.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdeploy.distill.box_regions import check_boxes, covered_cells
from kdeploy.distill.contract import Batch, TaskFacts, loss
from kdeploy.errors import ModelError

if TYPE_CHECKING:
    from pydantic import Field

EDGES = 4


@loss(paper="arXiv:2102.12252", needs="logits", labels=True, tasks=("detection",))
class Ld(nn.Module):
    """Divergence of the bins of each edge, the mean over edges of cells at objects.

    Summed over bins, times temperature**2: codes that take the mean over the bins as well have a
    value smaller by their number. Cells away from all objects count with a weight of their own: the
    paper's valuable region beside the main one. Weight 0.25 is usual.

    Args:
        student: Shape of the student's logits (batch, 4 * bins, height, width).
        teacher: Shape of the teacher's logits, of as many bins and the same size.
        facts: Not used.
        temperature: Softens both distributions; > 0, no unit.
        elsewhere: Weight of cells that no object touches, beside 1 for the others.
    """

    def __init__(
        self,
        student: Sequence[int],
        teacher: Sequence[int],
        facts: TaskFacts,
        *,
        temperature: Annotated[float, Field(gt=0)] = 10.0,
        elsewhere: Annotated[float, Field(ge=0)] = 0.0,
    ) -> None:
        super().__init__()
        del facts
        channels = student[1]
        if (
            len(student) != 4
            or tuple(student[1:]) != tuple(teacher[1:])
            or channels % EDGES
            or channels == EDGES
        ):
            raise ModelError(
                f"`ld` compares distributions of edges (batch, 4 * bins, height, width), found "
                f"{tuple(student)} of the student and {tuple(teacher)} of the teacher",
                hint="it is for heads that give bins; one distance an edge is learned by `mse`",
            )
        self.temperature, self.elsewhere = temperature, elsewhere

    def forward(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        """Return the weighted mean over the cells' edges."""
        check_boxes(batch.labels, batch.x, loss="ld")
        own, other = (
            functional.log_softmax(
                z.reshape(len(z), EDGES, -1, *z.shape[2:]) / self.temperature, dim=2
            )
            for z in (student, teacher.detach())
        )
        edges = (other.exp() * (other - own)).sum(dim=2).mean(dim=1)  # (batch, height, width)
        covered = covered_cells(batch.labels, batch.x.shape[2:], student.shape[2:]).any(dim=1)
        weight = torch.where(covered, 1.0, self.elsewhere)
        # At the least one cell: without objects the value is 0, not a quotient of zeros.
        return self.temperature**2 * (edges * weight).sum() / weight.sum().clamp(min=1)
