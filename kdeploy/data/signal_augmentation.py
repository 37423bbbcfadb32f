"""Random changes of signals (channels, length), each series by its own amount.

T. T. Um et al., ICMI 2017, arXiv:1706.00527 (jitter, scaling); B. K. Iwana and S. Uchida, An
empirical survey of data augmentation for time series classification, 2021, arXiv:2007.15951.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor

Augment: TypeAlias = "Callable[[Tensor], Tensor]"
JITTER_STD = 0.05
"""Of the noise, in standard deviations of the series and channel that it is added to."""
SCALING_STD = 0.1
"""Of the factor around 1."""
LARGEST_SHIFT = 0.1
"""In lengths of the series; at least one step."""


def _jitter(shape: Sequence[int]) -> Augment:
    """Add noise to every value."""
    import torch

    def jitter(x: Tensor) -> Tensor:
        spread = x.std(dim=-1, correction=0, keepdim=True)
        return x + JITTER_STD * spread * torch.randn(x.shape).to(x)

    return jitter


def _scaling(shape: Sequence[int]) -> Augment:
    """Multiply each channel by a factor near 1, around its mean: an offset is no amplitude."""
    import torch

    def scale(x: Tensor) -> Tensor:
        factor = 1 + SCALING_STD * torch.randn(*x.shape[:-1], 1).to(x)
        mean = x.mean(dim=-1, keepdim=True)
        return mean + (x - mean) * factor

    return scale


def _time_shift(shape: Sequence[int]) -> Augment:
    """Move all channels together, earlier or later; the value at the edge is repeated."""
    import torch

    length = shape[-1]
    largest = max(1, round(LARGEST_SHIFT * length))

    def shift(x: Tensor) -> Tensor:
        steps = torch.randint(-largest, largest + 1, (len(x), 1, 1))
        places = (torch.arange(length) - steps).clamp(0, length - 1)
        return x.gather(-1, places.to(x.device).expand_as(x))

    return shift


SIGNAL_AUGMENTATIONS: Mapping[str, Callable[[Sequence[int]], Augment]] = {
    "jitter": _jitter,
    "scaling": _scaling,
    "time_shift": _time_shift,
}
