"""Knowledge review: deeper stages help shallower ones to learn the teacher's.

Chen et al., CVPR 2021, arXiv:2104.09044.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdeploy.distill.contract import Batch, TaskFacts, loss
from kdeploy.errors import ModelError

if TYPE_CHECKING:
    from pydantic import Field

POOLED_SIZES = (4, 2, 1)  # of the hierarchical context, beside the full size


@loss(paper="arXiv:2104.09044", needs="all_features", exact=False)
class Review(nn.Module):
    """From the deepest stage up, fuse the student's with what is carried from below, and compare.

    Maps of any sizes and widths, also pooled vectors (batch, channels) as maps of one position,
    which the paper adds as the deepest stage. The paper's weights are 0.6 to 8, and grow from 0
    during the first 20 epochs.
    """

    def __init__(
        self,
        student: tuple[torch.Size, ...],
        teacher: tuple[torch.Size, ...],
        facts: TaskFacts,
        *,
        width: Annotated[int, Field(gt=0)] = 512,
    ) -> None:
        """Build one fusion for each stage.

        Args:
            student: Shapes of the stages, from shallow to deep.
            teacher: Shapes of as many stages.
            facts: Not used.
            width: The most channels that are carried from stage to stage; fewer where the
                student's deepest stage has fewer.
        """
        super().__init__()
        del facts
        for shape in (*student, *teacher):
            _check(shape)
        width = min(width, student[-1][1])
        self.fusions = nn.ModuleList(
            _Fusion(own[1], width, other[1], is_deepest=stage == len(student))
            for stage, (own, other) in enumerate(zip(student, teacher, strict=True), start=1)
        )

    def forward(
        self, student: tuple[Tensor, ...], teacher: tuple[Tensor, ...], batch: Batch
    ) -> Tensor:
        """Return the sum over stages of the hierarchical context loss."""
        del batch
        losses = []
        carried = None
        stages = zip(self.fusions, student, teacher, strict=True)
        for fusion, own, other in reversed(list(stages)):
            asked = _as_map(other)
            learned, carried = fusion(_as_map(own), carried, asked.shape[2:])
            losses.append(hierarchical_context(learned, asked))
        return torch.stack(losses).sum()


def hierarchical_context(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean squared error at full and pooled sizes, each half as heavy as the one before.

    Sizes that a map does not exceed are left out, and the weights divided by their sum.
    """
    error, weight, weights = functional.mse_loss(student, teacher), 1.0, 1.0
    for size in POOLED_SIZES:
        if size < min(student.shape[2:]):
            own, other = (functional.adaptive_avg_pool2d(m, size) for m in (student, teacher))
            weight /= 2
            weights += weight
            error = error + weight * functional.mse_loss(own, other)
    return error / weights


class _Fusion(nn.Module):
    """Mixes a stage with the one below it, by weights for each position that it learns."""

    def __init__(self, channels: int, width: int, asked: int, *, is_deepest: bool) -> None:
        super().__init__()
        self.enter = _convolution(channels, width, kernel=1)
        self.weigh = None if is_deepest else nn.Conv2d(2 * width, 2, 1)
        self.leave = _convolution(width, asked, kernel=3)

    def forward(
        self, stage: Tensor, carried: Tensor | None, size: torch.Size
    ) -> tuple[Tensor, Tensor]:
        """Return the map to compare, of the teacher's size, and what is carried on."""
        mixed = self.enter(stage)
        if self.weigh is not None and carried is not None:
            below = _resized(carried, mixed.shape[2:])
            own, other = self.weigh(torch.cat([mixed, below], 1)).sigmoid().split(1, 1)
            mixed = own * mixed + other * below
        mixed = _resized(mixed, size)
        return self.leave(mixed), mixed


def _convolution(channels: int, width: int, *, kernel: int) -> nn.Sequential:
    convolution = nn.Conv2d(channels, width, kernel, padding=kernel // 2, bias=False)
    nn.init.kaiming_uniform_(convolution.weight, a=1)
    return nn.Sequential(convolution, nn.BatchNorm2d(width))


def _resized(maps: Tensor, size: torch.Size) -> Tensor:
    # Nearest, as in the authors' code.
    return maps if maps.shape[2:] == size else functional.interpolate(maps, size, mode="nearest")


def _as_map(features: Tensor) -> Tensor:
    return features[:, :, None, None] if features.ndim == 2 else features


def _check(shape: torch.Size) -> None:
    if len(shape) not in (2, 4):
        raise ModelError(
            f"review compares images (batch, channels, height, width) and vectors (batch, "
            f"channels), found the shape {tuple(shape)}",
            hint="for signals use `hints`, `attention` or `nst`",
        )
