"""Focal and global distillation: objects and background apart, and how positions relate.

Yang et al., CVPR 2022, arXiv:2111.11837.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import torch
from torch import Tensor, nn

from kdeploy.distill.box_regions import check_boxes, covered_cells
from kdeploy.distill.contract import Batch, TaskFacts, loss
from kdeploy.distill.feature_maps import check_maps, projection, resized

if TYPE_CHECKING:
    from pydantic import Field


@loss(
    paper="arXiv:2111.11837",
    needs="features",
    labels=True,
    exact=False,
    tasks=("detection",),
)
class Fgd(nn.Module):
    """Attention-weighted error of objects and of background, of attention, and of context.

    Each term is summed over channels and positions and divided by the items, as in the paper, whose
    weights these are for RetinaNet at 1333x800: they belong to a size of maps. A position of an
    object weighs one over the object's area in cells, the smallest object's where several overlap;
    one of the background, one over their number.

    Args:
        student: Shape of the student's maps (batch, channels, height, width).
        teacher: Shape of the teacher's maps.
        facts: Not used.
        temperature: Softens the attention over positions and channels; > 0.
        objects: Weight of the error at objects.
        background: Weight of the error elsewhere.
        attention: Weight of the absolute error of the two attentions.
        context: Weight of the error of the global context blocks' outputs.
    """

    def __init__(
        self,
        student: Sequence[int],
        teacher: Sequence[int],
        facts: TaskFacts,
        *,
        temperature: Annotated[float, Field(gt=0)] = 0.5,
        objects: Annotated[float, Field(ge=0)] = 1e-3,
        background: Annotated[float, Field(ge=0)] = 5e-4,
        attention: Annotated[float, Field(ge=0)] = 1e-3,
        context: Annotated[float, Field(ge=0)] = 5e-6,
    ) -> None:
        super().__init__()
        del facts
        check_maps(student, teacher, loss="fgd")
        self.temperature = temperature
        self.weights = (objects, background, attention, context)
        self.projection = projection(student, teacher)
        self.contexts = nn.ModuleList(_GlobalContext(teacher[1]) for _ in range(2))

    def forward(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        """Return the weighted sum of the four terms, each a mean over the items."""
        check_boxes(batch.labels, batch.x, loss="fgd")
        own = resized(self.projection(student), teacher.shape[2:])
        covered = covered_cells(batch.labels, batch.x.shape[2:], teacher.shape[2:])
        focal = _focal_errors(own, teacher, _masks(covered), self.temperature)
        attention = sum(
            (_attention(own, axis, self.temperature) - _attention(teacher, axis, self.temperature))
            .abs()
            .sum()
            for axis in (POSITIONS, CHANNELS)
        )
        context = self.contexts[0](own) - self.contexts[1](teacher)
        terms = [*focal, attention / len(own), context.square().sum() / len(own)]
        weighted = [w * term for w, term in zip(self.weights, terms, strict=True)]
        return torch.stack(weighted).sum()


POSITIONS, CHANNELS = "positions", "channels"


def _attention(features: Tensor, axis: str, temperature: float) -> Tensor:
    """Return weights of mean 1: (batch, 1, height, width), or (batch, channels, 1, 1)."""
    dims = 1 if axis == POSITIONS else (2, 3)
    strength = features.abs().mean(dims, keepdim=True)
    flat = (strength / temperature).flatten(1)
    return (flat.softmax(dim=1) * flat.shape[1]).view_as(strength)


def _masks(covered: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weights of positions of objects and of background, (batch, 1, height, width)."""
    area = covered.sum(dim=(2, 3), keepdim=True).clamp(min=1)
    if covered.shape[1]:
        # One over the smallest object's area is the largest weight: `amax` chooses the smallest
        # object.
        objects = (covered / area).amax(dim=1, keepdim=True)
    else:
        # `amax` over no objects is an error, and a batch may have none.
        objects = covered.new_zeros((len(covered), 1, *covered.shape[2:]), dtype=torch.float32)
    background = (objects == 0).float()
    cells = background.sum(dim=(2, 3), keepdim=True).clamp(min=1)
    return objects, background / cells


def _focal_errors(
    student: Tensor, teacher: Tensor, masks: tuple[Tensor, Tensor], temperature: float
) -> list[Tensor]:
    # The teacher's alone: the student must not choose where it is compared.
    weight = _attention(teacher, POSITIONS, temperature)
    weight = weight * _attention(teacher, CHANNELS, temperature)
    errors = weight * (student - teacher).square()
    return [(errors * mask).sum() / len(student) for mask in masks]


class _GlobalContext(nn.Module):
    """A map with its context added: Cao et al., ICCV Workshops 2019, arXiv:1904.11492."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        width = max(channels // 2, 1)  # the ratio of the authors' code
        self.weigh = nn.Conv2d(channels, 1, 1)
        self.transform = nn.Sequential(
            nn.Linear(channels, width),
            nn.LayerNorm(width),
            nn.ReLU(),
            nn.Linear(width, channels),
        )

    def forward(self, features: Tensor) -> Tensor:
        weights = self.weigh(features).flatten(2).softmax(dim=2)  # (batch, 1, positions)
        context = (features.flatten(2) * weights).sum(dim=2)
        added: Tensor = self.transform(context)
        return features + added[:, :, None, None]
