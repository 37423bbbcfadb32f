"""Relational distillation: keep the distances and angles between the items of a batch.

Park et al., CVPR 2019, arXiv:1904.05068.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import torch
from torch import Tensor
from torch.nn import functional

from kdeploy.distill.contract import loss
from kdeploy.distill.embeddings import nonzero, pooled, unit

if TYPE_CHECKING:
    from pydantic import Field


@loss(paper="arXiv:1904.05068", needs="features", of_items=True)
def rkd(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    *,
    distance: Annotated[float, Field(ge=0)] = 25.0,
    angle: Annotated[float, Field(ge=0)] = 50.0,
    rows: Annotated[int, Field(ge=3)] = 64,
) -> Tensor:
    """Return the smooth L1 errors of distances and of angles' cosines, weighted.

    Maps are averaged over their positions; widths may differ. Distances are divided by their mean
    over the pairs. The angles of all triples take 4 * rows**3 bytes (1 MiB at 64), the differences
    of all pairs 4 * rows**2 * channels, both for student and teacher, and once more backward.

    Args:
        student: Features (batch, channels, ...).
        teacher: Features (batch, other channels, ...).
        labels: Not used: it needs none.
        distance: Weight of the distances, taken over pairs.
        angle: Weight of the angles, taken over triples.
        rows: Items of a batch that are compared, drawn anew each time from a larger batch.
    """
    del labels
    student, teacher = pooled(student), pooled(teacher)
    if len(student) > rows:
        # Of both the same rows: a relation has a value only beside its own.
        drawn = torch.randperm(len(student), device=student.device)[:rows]
        student, teacher = student[drawn], teacher[drawn]
    own, other = _relations(student), _relations(teacher)
    errors = [functional.smooth_l1_loss(s, t) for s, t in zip(own, other, strict=True)]
    return distance * errors[0] + angle * errors[1]


def _relations(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distances (i, j) over their mean, and the cosines (i, j, k) of the angle at i."""
    differences = vectors[None] - vectors[:, None]  # (i, j, channels): from i to j
    distances = torch.linalg.vector_norm(differences, dim=2)
    num_pairs = max(len(vectors) * (len(vectors) - 1), 1)
    directions = unit(differences)
    return distances / nonzero(distances.sum() / num_pairs), directions @ directions.mT
