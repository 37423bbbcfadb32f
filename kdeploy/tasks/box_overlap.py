"""How far boxes overlap, x1 y1 x2 y2: as tensors, for losses."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
