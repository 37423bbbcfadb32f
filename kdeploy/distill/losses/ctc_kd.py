"""Frames of CTC: match the teacher where it or the student says something.

Frame-wise distillation of connectionist temporal classification, most of whose frames are blank:
Takashima, Li, Kawai, ICASSP 2018, https://doi.org/10.1109/ICASSP.2018.8461995; which frames teach:
arXiv:2506.01503.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdeploy.distill.contract import Batch, TaskFacts, loss
from kdeploy.errors import ModelError

if TYPE_CHECKING:
    from pydantic import Field


@loss(paper="arXiv:2506.01503", needs="logits", tasks=("ctc",))
class CtcKd(nn.Module):
    """Divergence of the frames' softmax, the mean over frames that are not blank to both.

    A frame counts where the teacher's or the student's probability of blank is under `blank_above`,
    with one neighbour on each side: spikes of two networks may stand beside each other. Choosing by
    both sides, it teaches what not to say too, and needs no labels.

    Args:
        student: Shape of the student's logits (batch, frames, characters).
        teacher: Shape of the teacher's logits, of as many frames and characters.
        facts: Not used.
        temperature: Softens both distributions; > 0, no unit.
        blank: Index of the blank.
        blank_above: Above this probability of blank a frame says nothing; 1: all frames count.
    """

    def __init__(
        self,
        student: Sequence[int],
        teacher: Sequence[int],
        facts: TaskFacts,
        *,
        temperature: Annotated[float, Field(gt=0)] = 1.0,
        blank: Annotated[int, Field(ge=0)] = 0,
        blank_above: Annotated[float, Field(gt=0, le=1)] = 0.9,
    ) -> None:
        super().__init__()
        del facts
        if len(student) != 3 or tuple(student[1:]) != tuple(teacher[1:]):
            raise ModelError(
                f"`ctc_kd` compares (batch, frames, characters) of one frame rate, found "
                f"{tuple(student)} of the student and {tuple(teacher)} of the teacher",
                hint="give both networks as many frames an item and one alphabet",
            )
        self.temperature, self.blank, self.blank_above = temperature, blank, blank_above

    def forward(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        """Return the mean over the frames that count, times temperature**2; 0 where none does."""
        del batch
        own, other = (
            functional.log_softmax(z / self.temperature, dim=-1)
            for z in (student, teacher.detach())
        )
        frames = (other.exp() * (other - own)).sum(-1)
        counted = self._counted(student.detach(), teacher)
        kept = torch.where(counted, frames, torch.zeros_like(frames))
        return self.temperature**2 * kept.sum() / counted.sum().clamp(min=1)

    def _counted(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return which frames (batch, frames) say something, or stand beside one that does."""
        blank = [z.softmax(-1)[..., self.blank] for z in (student, teacher)]
        speaks = (torch.minimum(*blank) <= self.blank_above).float()
        return functional.max_pool1d(speaks[:, None], 3, stride=1, padding=1)[:, 0] > 0
