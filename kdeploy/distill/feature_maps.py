"""Feature maps of two networks brought to one shape: pooled to one size, projected to one width."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torch.nn import functional

from kdeploy.errors import ModelError

POOLS: dict[int, Callable[..., Tensor]] = {
    3: functional.adaptive_avg_pool1d,
    4: functional.adaptive_avg_pool2d,
    5: functional.adaptive_avg_pool3d,
}
MODES = {3: "linear", 4: "bilinear", 5: "trilinear"}
PROJECTIONS: dict[int, Callable[..., nn.Module]] = {
    2: nn.Linear,
    3: nn.Conv1d,
    4: nn.Conv2d,
    5: nn.Conv3d,
}
NORMS = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}


def pooled_alike(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Return both with the smaller of their sizes in each dimension, by average pooling."""
    size = tuple(min(s) for s in zip(student.shape[2:], teacher.shape[2:], strict=True))
    return _pooled(student, size), _pooled(teacher, size)


def resized(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Return maps (batch, channels, height, width) in another size, interpolated bilinearly.

    Of logits, never of probabilities; the corners of pixels agree, not their centres. Signals
    (batch, channels, length) are interpolated linearly, clips trilinearly.
    """
    if tuple(maps.shape[2:]) == tuple(size):
        return maps
    return functional.interpolate(maps, tuple(size), mode=MODES[maps.ndim], align_corners=False)


def projection(student: Sequence[int], teacher: Sequence[int]) -> nn.Module:
    """Return a trained 1x1 convolution from one width to another; nothing where they agree."""
    if student[1] == teacher[1]:
        return nn.Identity()
    kernel = {} if len(student) == 2 else {"kernel_size": 1}
    return PROJECTIONS[len(student)](student[1], teacher[1], **kernel)


def check_maps(student: Sequence[int], teacher: Sequence[int], *, loss: str) -> None:
    """Raise ModelError unless both shapes are images (batch, channels, height, width)."""
    if not len(student) == len(teacher) == 4:
        raise ModelError(
            f"`{loss}` compares feature maps (batch, channels, height, width), found "
            f"{tuple(student)} of the student and {tuple(teacher)} of the teacher",
            hint="name layers before any pooling, in `layers`",
        )


def adapter(student: Sequence[int], teacher: Sequence[int]) -> nn.Module:
    """Return the trained projection between the widths of two shapes (batch, channels, ...).

    A 1x1 convolution (a linear layer for vectors) and batch norm, as Romero et al., ICLR 2015,
    arXiv:1412.6550, generalise it; also where the widths agree, for the bases still differ.
    """
    project, norm = PROJECTIONS[len(student)], NORMS[len(student)]
    kernel = {} if len(student) == 2 else {"kernel_size": 1}
    return nn.Sequential(project(student[1], teacher[1], bias=False, **kernel), norm(teacher[1]))


def check_ranks(student: Sequence[int], teacher: Sequence[int], *, where: str) -> None:
    """Raise ModelError unless the two shapes are maps of one kind: vectors, signals or images."""
    if len(student) != len(teacher) or len(student) not in PROJECTIONS:
        raise ModelError(
            f"{where}: the student's features have the shape {tuple(student)}, the teacher's "
            f"{tuple(teacher)}; both need 2, 3 or 4 dimensions, the same number",
            hint="name layers of the same kind on both sides, e.g. two convolutional blocks",
        )


def _pooled(features: Tensor, size: tuple[int, ...]) -> Tensor:
    if tuple(features.shape[2:]) == size:
        return features
    return POOLS[features.ndim](features, size)
