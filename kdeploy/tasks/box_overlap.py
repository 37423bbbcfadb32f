"""How far boxes overlap, x1 y1 x2 y2: as tensors for losses, and what suppresses what, in numpy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

TINY = 1e-7


def generalized_overlap(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Return the intersection over union of boxes (..., 4), and the generalised one, in -1..1.

    Rezatofighi et al., CVPR 2019, arXiv:1902.09630.
    """
    import torch

    low = torch.maximum(first[..., :2], second[..., :2])
    high = torch.minimum(first[..., 2:], second[..., 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    areas = [(b[..., 2:] - b[..., :2]).clamp(min=0).prod(-1) for b in (first, second)]
    union = areas[0] + areas[1] - shared
    hull_low = torch.minimum(first[..., :2], second[..., :2])
    hull_high = torch.maximum(first[..., 2:], second[..., 2:])
    hull = (hull_high - hull_low).clamp(min=0).prod(-1)
    overlap = shared / (union + TINY)
    return overlap, overlap - (hull - union) / (hull + TINY)


def overlaps(first: NDArray[Any], second: NDArray[Any]) -> NDArray[np.float64]:
    """Return the intersection over union of all pairs of boxes (n, 4) and (m, 4), (n, m)."""
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = (high - low).clip(0).prod(-1)
    areas = [(b[:, 2:] - b[:, :2]).clip(0).prod(-1) for b in (first, second)]
    union = areas[0][:, None] + areas[1][None] - shared
    found: NDArray[np.float64] = np.divide(
        shared, union, out=np.zeros_like(shared), where=union > 0
    )
    return found


def kept_boxes(
    boxes: NDArray[Any], scores: NDArray[Any], labels: NDArray[Any], *, overlap: float, most: int
) -> NDArray[np.int64]:
    """Return which boxes stay, best first: none overlaps a better one of its class by more.

    Equal scores are ordered by place.

    Args:
        boxes: (n, 4).
        scores: (n,).
        labels: (n,): boxes of other classes do not suppress one another.
        overlap: Intersection over union above which the worse box goes.
        most: At most so many are kept.
    """
    order = np.argsort(-scores, kind="stable")
    boxes, labels = boxes[order], labels[order]
    is_over = (overlaps(boxes, boxes) > overlap) & (labels[:, None] == labels[None])
    stays = np.ones(len(order), bool)
    for place in range(len(order)):
        if stays[place]:
            # Greedy: a box that has gone itself suppresses none.
            stays[place + 1 :] &= ~is_over[place, place + 1 :]
    found: NDArray[np.int64] = order[stays][:most]
    return found
