"""Masked generative distillation: make the teacher's whole map out of a part of the student's.

Yang et al., ECCV 2022, arXiv:2205.01529.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdeploy.distill.contract import Batch, TaskFacts, loss
from kdeploy.distill.feature_maps import check_maps, projection, resized

if TYPE_CHECKING:
    from pydantic import Field


@loss(paper="arXiv:2205.01529", needs="features", exact=False, draws=True)
class Mgd(nn.Module):
    """Mean squared error of the teacher's map and one generated from the student's unmasked part.

    The mask is drawn for each item and position, and shared by the channels; two 3x3 convolutions
    generate. The paper sums over channels and positions: its weight 2e-5 (one-stage detectors) is
    2e-5 * channels * height * width here, and does not depend on the size of maps any more.

    Args:
        student: Shape of the student's maps (batch, channels, height, width).
        teacher: Shape of the teacher's maps.
        facts: Not used.
        masked: The share of positions that is hidden.
    """

    def __init__(
        self,
        student: Sequence[int],
        teacher: Sequence[int],
        facts: TaskFacts,
        *,
        masked: Annotated[float, Field(ge=0, lt=1)] = 0.65,
    ) -> None:
        super().__init__()
        del facts
        check_maps(student, teacher, loss="mgd")
        self.masked = masked
        self.projection = projection(student, teacher)
        width = teacher[1]
        self.generation = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        """Return the mean over items, channels and positions."""
        del batch
        own = resized(self.projection(student), teacher.shape[2:])
        # Not divided by what is kept, as dropout is: the convolutions behind learn the scale.
        drawn = torch.rand((len(own), 1, *own.shape[2:]), device=own.device)
        return functional.mse_loss(self.generation(own * (drawn >= self.masked)), teacher)
