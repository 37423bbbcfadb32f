"""Pixel-wise distillation: match the teacher's softened classes at each position of a map.

Liu et al., CVPR 2019, arXiv:1903.04197.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import torch
from torch import Tensor, nn

from kdeploy.data.contract import NOT_COUNTED
from kdeploy.distill.contract import Batch, TaskFacts, loss
from kdeploy.distill.divergence import divergence
from kdeploy.distill.feature_maps import resized
from kdeploy.errors import ModelError

if TYPE_CHECKING:
    from pydantic import Field


@loss(paper="arXiv:1903.04197", needs="logits", tasks=("segmentation",))
class PixelKd(nn.Module):
    """KL(teacher || student) over classes, the mean over positions, times temperature**2.

    It is `kd` with each position as an item, also where the label is unknown: the teacher is
    defined there. A teacher's map of another size is interpolated to the student's, as logits. A
    single channel is one class beside none: a Bernoulli distribution.

    Args:
        student: Shape of the student's logits (batch, classes, height, width).
        teacher: Shape of the teacher's logits.
        facts: Not used.
        temperature: Softens both distributions; > 0, no unit.
        at_ignored: Whether the teacher also teaches where no label is known.
    """

    def __init__(
        self,
        student: Sequence[int],
        teacher: Sequence[int],
        facts: TaskFacts,
        *,
        temperature: Annotated[float, Field(gt=0)] = 1.0,
        at_ignored: bool = True,
    ) -> None:
        super().__init__()
        del facts
        if not len(student) == len(teacher) == 4 or student[1] != teacher[1]:
            raise ModelError(
                f"`pixel_kd` compares logits of the same classes (batch, classes, height, width), "
                f"found {tuple(student)} of the student and {tuple(teacher)} of the teacher",
                hint="it is for `task: segmentation`; `kd` is for classes of items",
            )
        self.temperature, self.at_ignored = temperature, at_ignored

    def forward(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        """Return the mean over the positions that count."""
        teacher = resized(teacher.detach(), student.shape[2:])
        if student.shape[1] == 1:
            student, teacher = (
                # softmax of (0, z) is (1 - sigmoid(z), sigmoid(z)).
                torch.cat([torch.zeros_like(z), z], dim=1)
                for z in (student, teacher)
            )
        own, other = (z.movedim(1, -1).flatten(0, -2) for z in (student, teacher))
        if self.at_ignored:
            return self.temperature**2 * divergence(own, other, temperature=self.temperature)
        counted = _counted(batch.labels, student.shape[2:]).flatten()
        # Equal logits diverge by 0: what is left out adds nothing, whatever its value was.
        own, other = (torch.where(counted[:, None], z, torch.zeros_like(z)) for z in (own, other))
        # The mean is over all positions; divided by the share that counts it is one over those.
        share = counted.float().mean().clamp(min=1 / counted.numel())
        value = divergence(own, other, temperature=self.temperature)
        return self.temperature**2 * value / share


def _counted(labels: Tensor, size: torch.Size) -> Tensor:
    """Return where a class is known (batch, *size): of another size, the nearest label's."""
    known = (labels != NOT_COUNTED).float()[:, None]
    if tuple(known.shape[2:]) != tuple(size):
        known = torch.nn.functional.interpolate(known, tuple(size), mode="nearest")
    return known[:, 0] > 0
