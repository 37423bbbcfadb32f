"""Pixel-wise distillation: match the teacher's softened classes at each position of a map.

Liu et al., CVPR 2019, arXiv:1903.04197.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import torch
from torch import Tensor

from kdeploy.distill.contract import loss
from kdeploy.distill.divergence import divergence
from kdeploy.distill.feature_maps import resized

if TYPE_CHECKING:
    from pydantic import Field

IGNORED = 255
"""The label of a pixel that no class is known of."""


@loss(paper="arXiv:1903.04197", needs="logits", tasks=("segmentation", "classification"))
def pixel_kd(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    *,
    temperature: Annotated[float, Field(gt=0)] = 1.0,
    at_ignored: bool = True,
) -> Tensor:
    """Return KL(teacher || student) over classes, the mean over positions, times temperature**2.

    It is `kd` with each position as an item. A teacher's map of another size is interpolated to the
    student's, as logits. A single channel is one class beside none: a Bernoulli distribution.

    Args:
        student: Logits (batch, classes, height, width).
        teacher: Logits (batch, classes, height, width).
        labels: Where `at_ignored` is false: classes (batch, height, width), 255 for unknown.
        temperature: Softens both distributions; > 0, no unit.
        at_ignored: Whether the teacher also teaches where the label is 255; it is defined there.
    """
    if student.ndim > 2:
        teacher = resized(teacher, student.shape[2:])
    if student.shape[1] == 1:
        student, teacher = (torch.cat([torch.zeros_like(z), z], dim=1) for z in (student, teacher))
    own, other = (z.movedim(1, -1).flatten(0, -2) for z in (student, teacher))
    if at_ignored or labels.ndim != student.ndim - 1:
        return temperature**2 * divergence(own, other, temperature=temperature)
    counted = _counted(labels, student.shape[2:]).flatten()
    # Equal logits diverge by 0: what is left out adds nothing, whatever its value was.
    own, other = (torch.where(counted[:, None], z, torch.zeros_like(z)) for z in (own, other))
    share = counted.float().mean().clamp(min=1 / counted.numel())
    return temperature**2 * divergence(own, other, temperature=temperature) / share


def _counted(labels: Tensor, size: torch.Size) -> Tensor:
    """Return where a class is known (batch, *size): of another size, the nearest label's."""
    known = (labels != IGNORED).float()[:, None]
    if tuple(known.shape[2:]) != tuple(size):
        known = torch.nn.functional.interpolate(known, tuple(size), mode="nearest")
    return known[:, 0] > 0
